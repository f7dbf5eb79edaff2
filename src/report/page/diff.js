// Which words of two texts stand in one of them alone.

// Words or lines that are compared with each other, at most: a table of both is kept.
const MOST = 2500;

// Below this share of common words every word would be marked, which tells nothing.
const LEAST_COMMON = 0.2;

const WORDS = /[\p{L}\p{N}_]+|\s+|[^\p{L}\p{N}_\s]/gu;

// Two lists of [text, alone], one per text, whose texts together are the text; `alone` says
// that the other text lacks it. Null if the two have too little in common.
export function differences(one, other) {
  if (one === other) return [[[one, false]], [[other, false]]];
  const split = (text) => text.match(WORDS) || [];
  let parts = [split(one), split(other)];
  if (Math.max(parts[0].length, parts[1].length) > MOST) {
    // Too long for words: whole lines then.
    parts = [one, other].map((text) => text.match(/[^\n]*\n|[^\n]+$/g) || []);
    if (Math.max(parts[0].length, parts[1].length) > MOST) return null;
  }
  const kept = common(parts[0], parts[1]);
  const blank = (part) => /^\s*$/.test(part);
  const size = (list) => list.reduce((sum, part) => sum + (blank(part) ? 0 : part.length), 0);
  const shared = kept[0].reduce((sum, is, place) => sum + (is && !blank(parts[0][place]) ? parts[0][place].length : 0), 0);
  if (shared < LEAST_COMMON * Math.max(size(parts[0]), size(parts[1]))) return null;
  return parts.map((list, text) => joined(list, kept[text]));
}

// For both lists, which of their parts are in a longest common subsequence.
function common(one, other) {
  const kept = [one.map(() => false), other.map(() => false)];
  let start = 0;
  while (start < one.length && start < other.length && one[start] === other[start]) {
    kept[0][start] = kept[1][start] = true;
    start += 1;
  }
  let [end, otherEnd] = [one.length, other.length];
  while (end > start && otherEnd > start && one[end - 1] === other[otherEnd - 1]) {
    end -= 1;
    otherEnd -= 1;
    kept[0][end] = kept[1][otherEnd] = true;
  }
  const [rows, columns] = [end - start, otherEnd - start];
  // Lengths of the longest common subsequences of what follows each place.
  const table = new Uint16Array((rows + 1) * (columns + 1));
  const at = (row, column) => row * (columns + 1) + column;
  for (let row = rows - 1; row >= 0; row -= 1) {
    for (let column = columns - 1; column >= 0; column -= 1) {
      table[at(row, column)] = one[start + row] === other[start + column]
        ? table[at(row + 1, column + 1)] + 1
        : Math.max(table[at(row + 1, column)], table[at(row, column + 1)]);
    }
  }
  for (let row = 0, column = 0; row < rows && column < columns;) {
    if (one[start + row] === other[start + column]) {
      kept[0][start + row] = kept[1][start + column] = true;
      row += 1;
      column += 1;
    } else if (table[at(row + 1, column)] >= table[at(row, column + 1)]) row += 1;
    else column += 1;
  }
  return kept;
}

// Neighbours of one kind as one text; a blank between two marked words is marked, too.
function joined(parts, kept) {
  const texts = [];
  parts.forEach((part, place) => {
    const between = kept[place] && /^[^\S\n]+$/.test(part) && place > 0 && !kept[place - 1] && place + 1 < parts.length && !kept[place + 1];
    const alone = !kept[place] || between;
    const last = texts.at(-1);
    if (last && last[1] === alone) last[0] += part;
    else texts.push([part, alone]);
  });
  return texts;
}
