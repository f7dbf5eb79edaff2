// Numbers, times and names as people read them.

const MINUS = '\u2212';

// A number with so many digits behind the point.
export function fixed(value, digits) {
  if (value === null || value === undefined) return '\u2013';
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? MINUS + text : text;
}

// Points with their sign.
export function points(value) {
  if (value === null || value === undefined) return '\u2013';
  const text = fixed(value, 2);
  return value > 0 && Number(value.toFixed(2)) !== 0 ? `+${text}` : text;
}

// An interval in points.
export function interval(range) {
  return range ? `${points(range.low)} to ${points(range.high)}` : '\u2013';
}

// A chance such as alpha: three digits that count.
export function chance(value) {
  if (value === null || value === undefined) return '\u2013';
  if (value === 0) return '0';
  return value < 1e-6 ? value.toExponential(2).replace('-', MINUS) : String(Number(value.toPrecision(3)));
}

// A factor whose natural logarithm is `log`, as the program prints it.
export function times(log) {
  const ten = log / Math.LN10;
  return Math.abs(ten) < 6 ? `\u00d7${fixed(Math.exp(log), 1)}` : `\u00d710^${fixed(ten, 1)}`;
}

// A whole number with its thousands apart.
export function count(value) {
  return String(value).replace(/\B(?=(\d{3})+$)/g, '\u202f');
}

// The first digits of a digest, or the beginning of a longer name.
export function short(name) {
  if (!name) return '\u2013';
  if (/^[0-9a-f]{64}$/.test(name)) return name.slice(0, 12);
  return name.length > 20 ? `${name.slice(0, 8)}\u2026${name.slice(-6)}` : name;
}

// A moment in words, in UTC: the same for every reader.
export function moment(seconds) {
  if (!seconds) return '\u2013';
  const date = new Date(seconds * 1000);
  const months = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];
  const two = (number) => String(number).padStart(2, '0');
  return `${date.getUTCDate()} ${months[date.getUTCMonth()]} ${date.getUTCFullYear()}, ${two(date.getUTCHours())}:${two(date.getUTCMinutes())} UTC`;
}

// The day alone.
export function day(seconds) {
  return moment(seconds).split(',')[0];
}

// How long something took or is ago.
export function duration(seconds) {
  const units = [[86400, 'day'], [3600, 'hour'], [60, 'minute'], [1, 'second']];
  for (const [size, name] of units) {
    const whole = Math.floor(seconds / size);
    if (whole >= 2 || size === 1) return `${whole} ${name}${whole === 1 ? '' : 's'}`;
  }
  return '';
}

// A model as a name: where it can be fetched, else its digest.
export function model(name) {
  if (name.reference) return name.reference.replace(/@sha256:([0-9a-f]{8})[0-9a-f]*$/, '@$1').replace(/@([0-9a-f]{8})[0-9a-f]{32}$/, '@$1');
  return short(name.parameters);
}

// What a duel came to, in a word and in a sentence.
export function outcome(entry) {
  if (entry.study) return ['Study', 'Judged for a study: no verdict.'];
  const key = entry.reason ? `${entry.outcome}:${entry.reason}` : entry.outcome;
  const words = {
    dethroned: ['Crowned', 'The challenger takes the crown.'],
    king_holds: ['Held', 'The king holds.'],
    'king_holds:futile': ['Held', 'The king holds: a clear win was out of reach.'],
    'king_holds:not_shown': ['Held', 'The king holds: a clear win was not shown.'],
    forfeit: ['Forfeit', 'The challenger forfeits.'],
    'forfeit:screened': ['Not admitted', 'The submission was not admitted: a screen rejected it.'],
    'forfeit:overflow': ['Forfeit', 'The challenger forfeits: its own arithmetic overflowed too often.'],
    void: ['Void', 'The duel is void: nobody loses.'],
  };
  return words[key] || words[entry.outcome] || [entry.outcome, `${entry.outcome}.`];
}
