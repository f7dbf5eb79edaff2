// The page: who reigns, what runs, what was decided, and how to check it oneself.

import { budgetBar, marginMark } from './chart.js';
import * as data from './data.js';
import { el, show, verbatim } from './dom.js';
import { admissionPart, charts, code, facts, label, number, samplesPart, scoresPart, trustPart } from './duel.js';
import { chance, count, day, duration, fixed, interval, model, moment, outcome, points, short } from './format.js';

const ROWS = 50;
const POLL = 30000;

const content = document.getElementById('content');
const notices = document.getElementById('notices');
let turn = 0;

// ---- small parts

const link = (digest, ...children) => el('a', { href: `#/duel/${digest}` }, children);
const heading = (name, ...lead) => el('header', { class: 'heading' }, el('h1', {}, name), el('p', { class: 'lead' }, lead));
const tag = (entry) => el('span', { class: `tag ${entry.outcome}` }, outcome(entry)[0]);

function who(submission, name) {
  if (!submission) return el('span', { title: name.parameters || '' }, verbatim(model(name)));
  return el('span', {}, el('span', { class: 'repo' }, verbatim(submission.repository)),
    el('a', { class: 'hotkey', href: `#/search/${encodeURIComponent(submission.hotkey)}`, title: submission.hotkey }, short(submission.hotkey)));
}

function commands(...lines) {
  return el('pre', { class: 'commands', tabindex: '0', 'aria-label': 'Commands' }, lines.join('\n'));
}

const here = () => location.href.split('#')[0].replace(/[^/]*$/, '');

// ---- tables of duels

function duelTable(entries, caption) {
  const reach = Math.max(5, ...entries.filter((entry) => entry.numbers).flatMap(({ numbers }) => {
    const range = numbers.interval;
    return [Math.abs(numbers.margin), ...(range ? [Math.min(Math.abs(range.low), 40), Math.min(Math.abs(range.high), 40)] : [])];
  }));
  return el('div', { class: 'table' }, el('table', { class: 'duels' },
    el('caption', { class: 'hidden' }, caption),
    el('thead', {}, el('tr', {}, ['Decided', 'Challenger', 'Outcome'].map((name) => el('th', { scope: 'col' }, name)),
      el('th', { scope: 'col', class: 'right' }, 'Margin'), el('th', { scope: 'col', class: 'wide' }, '95 % interval'),
      el('th', { scope: 'col', class: 'right wide' }, 'Samples'))),
    el('tbody', {}, entries.map((entry) => el('tr', {},
      el('td', { class: 'when' }, link(entry.record, day(entry.decided_at))),
      el('td', { class: 'whom' }, who(entry.submission, entry.challenger)),
      el('td', { class: 'what' }, tag(entry)),
      el('td', { class: 'right number much' }, entry.numbers ? points(entry.numbers.margin) : '\u2013'),
      el('td', { class: 'wide interval' }, entry.numbers && [marginMark(entry.numbers, reach), el('span', { class: 'quiet number' }, interval(entry.numbers.interval))]),
      el('td', { class: 'right number wide' }, entry.numbers ? count(entry.numbers.samples) : '\u2013'))))));
}

// ---- overview

async function overview() {
  const [status, running, index] = await Promise.all([data.status(), data.running(), data.index()]);
  const recent = await new data.History(index).upTo(8);
  return {
    title: 'albedo',
    updated: [status, running, index],
    nodes: [
      status ? reignPart(status, index) : emptyPart(),
      running && running.duel && runningPart(running),
      recent.length > 0 && el('section', {}, el('h2', {}, 'Latest duels'), duelTable(recent, 'Latest duels'),
        index.records > recent.length && el('p', {}, el('a', { class: 'more', href: '#/history' }, `All ${count(index.records)} records`))),
      status && el('div', { class: 'columns' }, kingsPart(status.kings), queuePart(status)),
    ],
  };
}

function emptyPart() {
  return el('section', { class: 'hero' }, el('h1', {}, 'Nobody reigns yet.'),
    el('p', { class: 'lead' }, 'The first record will appear here as soon as it is published: who won, by how much, and everything that is needed to check it.'));
}

function reignPart(status, index) {
  const { reign, kings } = status;
  const king = reign ? reign.king : kings[0];
  if (!king) return emptyPart();
  const since = king.crowned_at ? `since ${day(king.crowned_at)}` : 'since the beginning';
  const challengers = (many) => (many === 0 ? 'No challenger has tried yet.' : many === 1 ? 'One challenger has tried.' : `${count(many)} challengers have tried.`);
  return el('section', { class: 'hero' },
    el('div', {},
      el('p', { class: 'eyebrow' }, `King ${king.number}, ${since}`),
      el('h1', { dir: 'auto' }, verbatim(king.submission ? king.submission.repository : model(king.model))),
      el('p', { class: 'lead' }, reign && `${challengers(reign.attempts)} `, king.record ? link(king.record, 'The duel that crowned it') : 'It has reigned since before the first duel.'),
      facts(
        king.submission && label('Hotkey', el('a', { class: 'digest', href: `#/search/${encodeURIComponent(king.submission.hotkey)}` }, verbatim(king.submission.hotkey))),
        king.model.reference && label('Fetch it from', code(verbatim(king.model.reference))),
        king.model.parameters && label('Parameters', code(king.model.parameters)))),
    el('aside', { class: 'panel', 'aria-label': 'Numbers of the reign' },
      reign && el('div', { class: 'budget-part' },
        el('h3', {}, 'Error budget'),
        budgetBar(reign.left, reign.alpha),
        el('p', {}, el('span', { class: 'number big' }, chance(reign.left)), ` of ${chance(reign.alpha)} is left`),
        el('p', { class: 'quiet' }, `A king ever falls to a challenger that is not better with a chance of at most ${chance(reign.alpha)}, however many try. The next attempt may spend ${chance(reign.next_share)}.`)),
      facts(
        competition(status),
        label('Records', el('span', { class: 'number' }, count(index ? index.records : 0))),
        label('Waiting', el('span', { class: 'number' }, count(status.queue.length))),
        status.registration && label('Registration', el('span', { class: 'number' }, `${fixed(status.registration.rao / 1e9, 4)} TAO`), `at block ${count(status.registration.block)}`))));
}

// Which competition runs, by what its commitments begin with, and why it began.
function competition({ competitions }) {
  const present = competitions && competitions[0];
  if (!present) return null;
  const since = present.began_at ? `, since ${day(present.began_at)}` : '';
  return label('Competition', el('span', { class: 'number' }, `${count(present.number)}, `), code(verbatim(present.version)), since,
    present.number > 1 && el('span', { class: 'quiet' }, ': ', verbatim(present.reason)));
}

function runningPart({ duel }) {
  const trace = duel.evidence;
  const last = trace.points.at(-1);
  const state = last ? `${count(last.samples)} of at most ${count(trace.cap)} samples, mean ${points(last.mean)} points` : 'no sample is decided yet';
  return el('section', {},
    el('h2', {}, 'A duel runs'),
    el('div', { class: 'running' }, who(duel.submission, duel.challenger),
      el('p', { class: 'quiet' }, duel.attempt && `Attempt ${count(duel.attempt)} of this reign: `, state, duel.missing > 0 && `, ${count(duel.missing)} ${duel.missing === 1 ? 'answer' : 'answers'} missing`, '.')),
    charts(trace));
}

function kingsPart(kings) {
  return el('section', {}, el('h2', {}, 'Kings'),
    el('ol', { class: 'kings' }, kings.map((king) => el('li', {},
      el('span', { class: 'ordinal number' }, king.number),
      el('span', {}, who(king.submission, king.model)),
      el('span', { class: 'quiet crowned' },
        el('span', {}, king.record ? link(king.record, day(king.crowned_at)) : 'from the beginning'),
        el('span', { class: 'number weight' }, king.weight !== null && king.weight !== undefined && `${fixed(100 * king.weight, 1)} %`))))),
    kings.some((king) => king.weight) && el('p', { class: 'quiet small' }, 'When each was crowned, and its share of the weights.'));
}

function queuePart(status) {
  const { queue } = status;
  if (status.source === 'records') return null;
  return el('section', {}, el('h2', {}, 'Waiting'),
    queue.length === 0 ? el('p', { class: 'quiet' }, 'No submission waits.')
      : el('ol', { class: 'queue' }, queue.slice(0, 12).map((item) => el('li', {}, who(item.submission, {}), el('span', { class: 'quiet' }, item.state.replaceAll('_', ' '))))),
    queue.length > 12 && el('p', {}, el('a', { class: 'more', href: '#/submissions' }, `All ${count(queue.length)}`)));
}

// ---- history

async function history() {
  const index = await data.index();
  const all = new data.History(index);
  const place = el('div');
  let wanted = ROWS;
  let kind = 'all';
  async function draw() {
    let entries = await all.upTo(wanted);
    const fits = (entry) => kind === 'all' || entry.outcome === kind;
    while (entries.filter(fits).length < Math.min(wanted, ROWS) && entries.length < all.records) entries = await all.upTo(entries.length + ROWS);
    const rows = entries.filter(fits);
    show(place,
      rows.length > 0 ? duelTable(rows, 'Duels, the newest first') : el('p', { class: 'quiet' }, all.records > 0 ? 'No such record.' : 'Nothing is published yet.'),
      entries.length < all.records && el('button', { type: 'button', class: 'more', onclick: () => { wanted = entries.length + ROWS; draw().catch(failed); } }, `Show older records (${count(all.records - entries.length)} more)`));
  }
  await draw();
  const choices = [['all', 'All'], ['dethroned', 'Crowned'], ['king_holds', 'Held'], ['forfeit', 'Forfeit'], ['void', 'Void']];
  const filter = el('div', { class: 'filter', role: 'group', 'aria-label': 'Outcome' });
  const buttons = choices.map(([value, name]) => el('button', { type: 'button', 'aria-pressed': value === kind ? 'true' : 'false', onclick: () => {
    kind = value;
    wanted = ROWS;
    buttons.forEach((button, place) => button.setAttribute('aria-pressed', choices[place][0] === kind ? 'true' : 'false'));
    draw().catch(failed);
  } }, name));
  show(filter, buttons);
  return { title: 'Duels', updated: [index], nodes: [heading('Duels', `${count(all.records)} ${all.records === 1 ? 'record' : 'records'}, the newest first. Margins are the challenger\u2019s points minus the king\u2019s.`), el('section', {}, filter, place)] };
}

// ---- submissions

const submissionTable = (rows) => el('div', { class: 'table' }, el('table', { class: 'submissions' },
  el('caption', { class: 'hidden' }, 'Submissions, the newest first'),
  el('thead', {}, el('tr', {}, ['Submission', 'State', 'Why, and what its miner can do'].map((name) => el('th', { scope: 'col' }, name)), el('th', { scope: 'col', class: 'wide' }, 'Since'))),
  el('tbody', {}, rows.map((row) => el('tr', {},
    el('td', { class: 'whom' }, who(row.submission, {})),
    el('td', { class: 'state' }, el('span', { class: `tag ${row.state}` }, row.state.replaceAll('_', ' '))),
    el('td', { class: 'why' }, el('p', {}, verbatim(row.reason), row.record && [' ', link(row.record, 'record')]), el('p', { class: 'quiet' }, verbatim(row.action))),
    el('td', { class: 'wide when' }, day(row.since)))))));

async function submissionsView() {
  const all = await data.submissions();
  const rows = all ? all.submissions : [];
  return {
    title: 'Submissions', updated: [all],
    nodes: [heading('Submissions', 'Every submission, where it stands, why, and what its miner can do.'),
      rows.length > 0 ? submissionTable(rows.slice(0, 500)) : el('p', { class: 'quiet' }, all ? 'There is no submission yet.' : 'Nobody publishes submissions here: the records come without a chain.')],
  };
}

// ---- search

async function search(query) {
  const [index, all] = await Promise.all([data.index(), data.submissions()]);
  const wanted = query.trim().toLowerCase();
  const history = new data.History(index);
  const has = (...texts) => texts.some((text) => text && text.toLowerCase().includes(wanted));
  const names = (submission) => submission ? [submission.hotkey, submission.repository, submission.pin] : [];
  const entries = (await history.upTo(Infinity)).filter((entry) => has(entry.record, entry.king.parameters, entry.challenger.parameters, entry.king.reference, entry.challenger.reference, ...names(entry.submission)));
  const submitted = (all ? all.submissions : []).filter((row) => has(row.record, ...names(row.submission)));
  if (/^[0-9a-f]{64}$/.test(wanted) && entries.some((entry) => entry.record === wanted)) {
    location.replace(`#/duel/${wanted}`);
  }
  return {
    title: 'Search', updated: [index],
    nodes: [heading('Search', 'What has ', el('code', {}, verbatim(query)), ' in its hotkey, repository or digests.'),
      submitted.length > 0 && el('section', {}, el('h2', {}, 'Submissions'), submissionTable(submitted)),
      el('section', {}, el('h2', {}, 'Records'), entries.length > 0 ? duelTable(entries.slice(0, 500), 'Records found') : el('p', { class: 'quiet' }, 'No record.'))],
  };
}

// ---- one duel

// The duel `digest`, with the card of `sample` open if it is given.
async function duel(digest, sample) {
  if (!/^[0-9a-f]{64}$/.test(digest)) return missing();
  const all = await data.duel(digest);
  if (!all) return missing();
  const { entry, plan, verdict } = all;
  const [word, sentence] = outcome(entry);
  const title = el('section', { class: 'hero duel' },
    el('div', {},
      el('p', { class: 'eyebrow' }, entry.numbers && entry.numbers.attempt ? `Attempt ${count(entry.numbers.attempt)}, ` : '', moment(entry.decided_at)),
      el('h1', {}, sentence),
      el('p', { class: 'lead versus' }, el('span', { class: 'challenger' }, who(entry.submission, entry.challenger)), ' against ', el('span', { class: 'king' }, verbatim(model(entry.king))))),
    verdict && el('aside', { class: 'panel score', 'aria-label': 'Margin' },
      el('p', {}, number('verdict.margin', verdict.margin), el('span', { class: 'quiet' }, ' points')),
      el('p', { class: 'quiet' }, entry.numbers.interval ? ['95 % interval ', el('span', { class: 'number' }, interval(entry.numbers.interval))] : 'no interval'),
      el('p', { class: 'quiet' }, number('verdict.samples', verdict.samples, count), ' of ', number('plan.samples', plan.samples, count), ' samples')));
  const nodes = [title];
  if (all.admission) nodes.push(admissionPart(all.admission));
  if (verdict) nodes.push(charts(all.evidence), scoresPart(all), trustPart(all), samplesPart(all, { first: sample, load: texts(all) }).node);
  nodes.push(provenancePart(all), verifyPart(digest), exportsPart(all));
  return { title: `${word}: ${short(digest)}`, updated: [], nodes };
}

function missing() {
  return { title: 'Not found', updated: [], nodes: [el('h1', {}, 'There is no such record here.'), el('p', {}, el('a', { class: 'more', href: '#/history' }, 'All records'))] };
}

// What reads the texts of a sample of `all`.
function texts(all) {
  return async (sample) => {
    const page = await data.samples(all.digest, Math.floor(sample / all.page_size));
    const card = page && page.samples.find((card) => card.sample === sample);
    if (!card) throw new Error('they are not published');
    return card;
  };
}

function provenancePart({ digest, entry, plan }) {
  const side = (name, of) => plan && label(name, code(of.model.parameters), [' ', verbatim(of.model.architecture), `, ${count(of.model.parameter_count)} parameters, on `, verbatim(`${of.backend.name} ${of.backend.version}`)]);
  return el('section', {}, el('h2', {}, 'Provenance'), facts(
    label('Record', code(digest)),
    plan && side('King', plan.king), plan && side('Challenger', plan.challenger),
    plan && label('Tasks', code(plan.tasks.manifest), ` ${count(plan.tasks.rows)} rows`),
    plan && label('Seed', code(plan.seed)),
    plan && plan.previous && label('Previous record', link(plan.previous, code(plan.previous))),
    entry.log_entry !== null && entry.log_entry !== undefined && label('Log of duels', [`entry ${count(entry.log_entry)}`]),
    entry.submission && label('Submission', [verbatim(entry.submission.repository), ' at ', code(verbatim(entry.submission.pin))])));
}

function verifyPart(digest) {
  return el('section', {}, el('h2', {}, 'Check it yourself'),
    el('p', {}, 'The record holds everything that decided the duel: the frozen plan, every reply, every answer of every judge. These commands fetch it, compare every byte with its digest, and work the verdict out again.'),
    commands(`albedo record fetch ${here()}records/${digest} \\\n    --out duel`, 'albedo record verify duel', 'albedo record show duel'));
}

// What a file of the data sets can be called, and where it can be.
const SET = /^exports\/([a-z_]+)\/([a-z]+)\.(parquet|jsonl)$/;
const SET_AT = /^exports\/[0-9a-f]{64}\.(parquet|jsonl)$/;

function exportsPart({ digest, exports }) {
  const sets = (exports || []).filter(({ name, at }) => SET.test(name) && SET_AT.test(at));
  if (sets.length === 0) return null;
  return el('section', { id: 'exports' }, el('h2', {}, 'Train on it'),
    el('p', {}, 'The replies as conversations, and as pairs of a better and a worse one: files for training tools, made of this record.'),
    el('ul', { class: 'exports' }, sets.map(({ name, at, size }) => {
      const [, set, split, ending] = name.match(SET);
      return el('li', {}, el('a', { href: `records/${digest}/${at}`, download: `${short(digest)}-${set}-${split}.${ending}` }, `${set}, ${split}`), el('span', { class: 'quiet' }, ` ${count(Math.ceil(size / 1000))} kB, ${ending}`));
    })),
    commands(`albedo record fetch ${here()}records/${digest} \\\n    --exports --out duel`));
}

// ---- how to verify

async function verify() {
  const status = await data.status();
  const log = status && status.log;
  return {
    title: 'Verify', updated: [status],
    nodes: [heading('Believe nothing here.', 'This page only shows files that lie beside it. What it says can be checked without it, and without trust in whoever serves it.'),
      el('section', { class: 'prose' },
        el('h2', {}, 'One duel'),
        el('p', {}, 'A record has a digest. Its bytes prove themselves: whoever serves them, other bytes have another digest.'),
        commands(`albedo record fetch ${here()}records/DIGEST \\\n    --out duel`, 'albedo record verify duel'),
        el('p', {}, 'The verdict is worked out again from the recorded answers: the draws, the panel, the rule, and offline judges are run anew. It says of every part whether it was proved, is attested by a signature, or is only asserted.'),
        el('h2', {}, 'Every duel'),
        el('p', {}, 'Records of a reign name the one before them. Verified together, they must be a chain, and their error budgets must add up.'),
        commands('albedo record verify first second third'),
        log ? [el('h2', {}, 'That none was left out'),
          el('p', {}, 'Every plan is announced in a log that only grows, before its duel begins. A duel that vanished shows as a plan without an end. Keep the log\u2019s head: a second history shows against it.'),
          facts(label('Log', verbatim(log.origin)), label('Key', code(verbatim(log.key))), label('Entries', count(log.size))),
          commands(`albedo log verify ${here()}log \\\n    --key ${log.key}`)]
          : [el('h2', {}, 'That none was left out'), el('p', {}, 'No log of duels is published here, so a record that was left out cannot be told from one that never was.')],
        el('h2', {}, 'Without albedo'),
        el('p', {}, 'The format of records is documented byte by byte, and a verifier in Python that was written from that page comes with the source.'))],
  };
}

// ---- routes, notices

function route() {
  const [, name = '', ...rest] = location.hash.replace(/^#/, '').split('/');
  const argument = decodeURIComponent(rest.join('/'));
  switch (name) {
    case '': return overview;
    case 'history': return history;
    case 'submissions': return submissionsView;
    case 'verify': return verify;
    case 'duel': return () => duel(rest[0] || '', /^\d+$/.test(rest[1] || '') ? Number(rest[1]) : undefined);
    case 'search': return () => search(argument);
    default: return async () => missing();
  }
}

// Says so if nobody has written the data for long, or if it cannot be read.
function notice(...children) {
  show(notices, children.length > 0 && el('div', { class: 'notice' }, children));
}

function stale(status) {
  if (!status) return;
  const age = Date.now() / 1000 - status.updated_at;
  if (age > status.stale_after_secs) {
    notice(el('strong', {}, 'This data is stale. '), `Nobody has written it for ${duration(age)}, since ${moment(status.updated_at)}. What you see may no longer be so.`);
  }
}

function failed(error) {
  notice(el('strong', {}, 'The data cannot be read. '), verbatim(error.message), ' ', el('button', { type: 'button', onclick: () => render(false) }, 'Try again'));
}

async function render(quiet) {
  const mine = ++turn;
  if (!quiet) content.setAttribute('aria-busy', 'true');
  try {
    const view = await route()();
    const status = await data.status();
    if (mine !== turn) return;
    notice();
    stale(status);
    const at = window.scrollY;
    show(content, view.nodes);
    if (quiet) window.scrollTo(0, at);
    document.title = view.title === 'albedo' ? 'albedo' : `${view.title} \u00b7 albedo`;
    const times = [status, ...view.updated].filter(Boolean).map((file) => file.updated_at).filter(Boolean);
    show(document.getElementById('updated'), times.length > 0 && `Data of ${moment(Math.max(...times))}`);
    for (const anchor of document.querySelectorAll('nav a')) {
      const current = anchor.getAttribute('href') === (location.hash || '#/');
      if (current) anchor.setAttribute('aria-current', 'page');
      else anchor.removeAttribute('aria-current');
    }
  } catch (error) {
    if (mine === turn) {
      failed(error);
      if (!quiet) show(content, el('p', { class: 'quiet' }, 'There is nothing to show.'));
    }
  } finally {
    if (mine === turn) {
      content.removeAttribute('aria-busy');
      document.body.setAttribute('data-ready', location.hash || '#/');
    }
  }
}

document.getElementById('search').addEventListener('submit', (event) => {
  event.preventDefault();
  const query = document.getElementById('q').value.trim();
  if (query) location.hash = `#/search/${encodeURIComponent(query)}`;
});

document.addEventListener('keydown', (event) => {
  const typing = event.target instanceof HTMLInputElement;
  if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    document.getElementById('q').focus();
  }
});

window.addEventListener('hashchange', async () => {
  await render(false);
  window.scrollTo(0, 0);
  content.focus({ preventScroll: true });
});

// Only the first view changes by itself.
setInterval(() => {
  if (!document.hidden && (location.hash === '' || location.hash === '#/')) render(true);
}, POLL);

render(false);
