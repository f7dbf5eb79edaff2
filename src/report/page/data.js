// The published files, as docs/publish.md describes them. All are beside this page.

const FORMAT = 1;
const kept = new Map();

// The file `name`: null if there is none. Throws if it cannot be read or is newer than
// this page. What never changes is asked for once.
export async function read(name, { lasting = false } = {}) {
  if (kept.has(name)) return kept.get(name);
  const answer = await fetch(name, { cache: lasting ? 'default' : 'no-cache', credentials: 'omit', redirect: 'error' });
  // Buckets that list nothing answer 403 for what is not there.
  if (answer.status === 404 || answer.status === 403) return null;
  if (!answer.ok) throw new Error(`${name}: the server answers ${answer.status}`);
  const data = await answer.json();
  if (data.format !== FORMAT) throw new Error(`${name} has format ${data.format}, this page reads ${FORMAT}: reload it`);
  if (lasting) kept.set(name, data);
  return data;
}

export const status = () => read('data/status.json');
export const running = () => read('data/running.json');
export const submissions = () => read('data/submissions.json');
export const index = () => read('index.json');
export const duel = (digest) => read(`data/duels/${digest}.json`);
export const samples = (digest, page) =>
  read(`data/duels/${digest}/samples/${String(page).padStart(3, '0')}.json`, { lasting: true });

// Entries of the index, the newest first, page by page.
export class History {
  constructor(index) {
    this.records = index ? index.records : 0;
    this.pages = index ? [...index.pages] : [];
    this.entries = index ? [...index.entries].reverse() : [];
  }

  // Reads on until there are `wanted` entries, or all.
  async upTo(wanted) {
    while (this.entries.length < wanted && this.pages.length > 0) {
      const { page } = this.pages.pop();
      const older = await read(`index/${page}.json`, { lasting: true });
      if (!older) throw new Error('a page of the index is missing');
      this.entries.push(...older.entries.reverse());
    }
    return this.entries.slice(0, wanted);
  }
}
