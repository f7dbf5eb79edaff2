// The parts of one duel: its evidence, scores, how far to trust them, and its samples.
// The published page and the report of records show them alike.

import { evidenceChart, marginMark, meanChart, sampleStrip } from './chart.js';
import { sampleCard } from './cards.js';
import { el, show, verbatim } from './dom.js';
import { count, fixed, points, times } from './format.js';

const ROWS = 50;

export const label = (name, value, note) => el('div', { class: 'fact' }, el('dt', {}, name), el('dd', {}, value, note && el('span', { class: 'quiet' }, note)));
export const facts = (...rows) => el('dl', { class: 'facts' }, rows);
export const code = (text) => el('code', { class: 'digest' }, text);
export const two = (value) => fixed(value, 2);
export const percent = (share) => (share === null || share === undefined ? '\u2013' : `${fixed(100 * share, 1)} %`);
export const whole = (value) => (value === null || value === undefined ? '\u2013' : fixed(value, 0).replace(/\d+$/, count));

// A number of the record, where it stands in `albedo record show --json`.
export function number(path, value, format = points) {
  return el('span', { class: 'number', 'data-path': path, 'data-form': format.name }, format(value));
}

// The head of a table whose first column is text and whose others are numbers.
export const head = (...names) => el('thead', {}, el('tr', {}, names.map((name, place) => el('th', { scope: 'col', class: place ? 'right' : '' }, name))));

export function charts(trace) {
  if (trace.points.length === 0) return el('p', { class: 'quiet' }, 'There is no evidence yet.');
  const evidence = trace.boundary !== null && trace.boundary !== undefined;
  return el('div', { class: 'charts' },
    evidence && el('figure', {}, el('figcaption', {}, 'Evidence that the challenger is better', el('span', { class: 'quiet' }, 'how much a bet on it has grown', trace.futility_boundary && '; dashed, a bet that a clear win is out of reach')), evidenceChart(trace)),
    el('figure', {}, el('figcaption', {}, 'Mean difference in points', el('span', { class: 'quiet' }, evidence ? 'with its 95 % confidence sequence; the line is the least win' : 'the line is the least win')), meanChart(trace)));
}

const scoreOf = (margin) => 50 + margin / 2;

// The scores; with an analysis of the record the SD and the errors of each judge, too.
export function scoresPart({ plan, verdict, analysis }) {
  const row = (name, path, margin, extra) => el('tr', {}, el('th', { scope: 'row' }, verbatim(name)),
    el('td', { class: 'right number king', 'data-derived': path }, two(scoreOf(-margin))), el('td', { class: 'right number challenger' }, two(scoreOf(margin))),
    el('td', { class: 'right' }, number(path, margin)), extra);
  const cell = (...content) => el('td', { class: 'right' }, content);
  const reach = analysis && Math.max(5, ...analysis.judges.map((judge, place) => Math.abs(verdict.judges[place].margin) + 2 * (judge.standard_error || 0)));
  const judges = verdict.judges.map((judge, place) => {
    const scatter = analysis && analysis.judges[place];
    const error = scatter && scatter.standard_error;
    const interval = error ? { low: judge.margin - 1.96 * error, high: judge.margin + 1.96 * error } : null;
    return row(judge.judge, `verdict.judges.${place}.margin`, judge.margin, [
      scatter && el('td', { class: 'wide' }, marginMark({ margin: judge.margin, interval }, reach)),
      scatter && cell(number(`analysis.judges.${place}.sd`, scatter.sd, two)),
      cell(number(`verdict.judges.${place}.flips`, judge.flips, count)),
      cell(number(`verdict.judges.${place}.missing`, judge.missing, count))]);
  });
  const one = plan.judges.length === 1;
  const note = el('p', { class: 'quiet' }, `${plan.judges.length} ${one ? 'judge' : 'judges'}, each asked in both orders. Scores are of 100.`);
  if (!analysis) {
    const metrics = Object.entries(verdict.metrics).map(([metric, margin]) => row(metric, `verdict.metrics.${metric}`, margin));
    return el('section', { class: 'columns' },
      el('div', {}, el('h2', {}, 'By judge'), el('div', { class: 'table' }, el('table', {}, head('Judge', 'King', 'Challenger', 'Margin', 'Flips', 'Missing'), el('tbody', {}, judges)))),
      el('div', {}, el('h2', {}, 'By metric'), el('div', { class: 'table' }, el('table', {}, head('Metric', 'King', 'Challenger', 'Margin'), el('tbody', {}, metrics))), note));
  }
  const panel = row('Panel', 'verdict.margin', verdict.margin, [
    el('td', { class: 'wide' }, analysis.standard_error ? marginMark({ margin: verdict.margin, interval: { low: verdict.margin - 1.96 * analysis.standard_error, high: verdict.margin + 1.96 * analysis.standard_error } }, reach) : null),
    cell(number('analysis.sd', analysis.sd, two)), cell(el('span', { class: 'number' }, count(verdict.judges.reduce((sum, judge) => sum + judge.flips, 0)))), cell(number('verdict.missing', verdict.missing, count))]);
  const columns = el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, 'Judge'), ['King', 'Challenger', 'Margin'].map((name) => el('th', { scope: 'col', class: 'right' }, name)),
    el('th', { scope: 'col', class: 'wide' }, el('span', { class: 'hidden' }, 'Margin with its error')), ['SD', 'Flips', 'Missing'].map((name) => el('th', { scope: 'col', class: 'right' }, name))));
  return el('section', { id: 'scores' }, el('h2', {}, 'Scores'),
    el('div', { class: 'table' }, el('table', { class: 'scores-table' }, columns, el('tbody', {}, judges), el('tfoot', {}, panel))),
    note, metricsTable(verdict));
}

// Margins by judge and metric: a row per judge, a column per metric.
function metricsTable(verdict) {
  const metrics = Object.keys(verdict.metrics);
  if (metrics.length < 2 && verdict.judges.length < 2) return null;
  const side = (margin) => (margin > 0.005 ? 'challenger' : margin < -0.005 ? 'king' : 'quiet');
  const cell = (path, margin) => el('td', { class: `right ${margin === undefined ? 'quiet' : side(margin)}` }, margin === undefined ? '\u2013' : number(path, margin));
  const rows = verdict.judges.map((judge, place) => el('tr', {}, el('th', { scope: 'row' }, verbatim(judge.judge)),
    metrics.map((metric) => cell(`verdict.judges.${place}.metrics.${metric}`, judge.metrics[metric]))));
  const panel = el('tr', {}, el('th', { scope: 'row' }, 'Panel'), metrics.map((metric) => cell(`verdict.metrics.${metric}`, verdict.metrics[metric])));
  return [el('h3', {}, 'Margins by metric'), el('div', { class: 'table' }, el('table', {}, head('Judge', ...metrics), el('tbody', {}, rows), el('tfoot', {}, panel)))];
}

export function trustPart({ plan, verdict, study }, ...more) {
  const flips = verdict.judges.reduce((sum, judge) => sum + judge.flips, 0);
  const scored = verdict.cells - verdict.missing;
  const causes = Object.entries(verdict.causes || {});
  const evidence = verdict.decision.evidence;
  const seconds = verdict.drift;
  return el('section', { id: 'trust' }, el('h2', {}, 'How far to trust it'), facts(
    evidence.log_e_value !== undefined && label('Evidence', number('verdict.decision.evidence.log_e_value', evidence.log_e_value, times), ` of ${times(-Math.log(evidence.alpha))} for a crown`),
    label('Missing', [number('verdict.missing', verdict.missing, count), ' of ', number('verdict.cells', verdict.cells, count), ' answers'], causes.length > 0 && causes.map(([cause, many]) => ` ${many} by ${cause}`).join(',')),
    verdict.missing > 0 && !study && label('With those for the king', verdict.dethroned_if_missing_for_king ? 'crowned' : 'not crowned'),
    label('Order flips', [el('span', { class: 'number' }, `${fixed(scored === 0 ? 0 : (100 * flips) / scored, 1)} %`)], ' of the scored answers prefer another side in the other order'),
    seconds && label('Drift', [number('verdict.drift.early', seconds.early), ' points in the first half, ', number('verdict.drift.late', seconds.late), ' in the second']),
    verdict.twins && label('Twins', [number('verdict.twins.compared', verdict.twins.compared, count), ' comparisons of a reply with its twin; judged by their twins: ', number('verdict.twins.king', verdict.twins.king, count), ' of the king, ', number('verdict.twins.challenger', verdict.twins.challenger, count), ' of the challenger']),
    verdict.twins && verdict.twins.samples > 0 && label('Delta', [number('verdict.twins.delta', verdict.twins.delta), ' points, ', number('verdict.twins.interval.low', verdict.twins.interval.low), ' to ', number('verdict.twins.interval.high', verdict.twins.interval.high)], verdict.twins.interval.low > 0 || verdict.twins.interval.high < 0 ? ' judges prefer one side for text that its actions do not need: read its replies' : ' what the challenger gains by text that its actions do not need, minus what the king does: 0 is expected'),
    verdict.overflows && label('Overflows', [number('verdict.overflows.king', verdict.overflows.king, count), ' of the king, ', number('verdict.overflows.challenger', verdict.overflows.challenger, count), ' of the challenger']),
    label('Rule', [plan.rule.name, ', win margin ', number('plan.rule.win_margin', plan.rule.win_margin, two), ' points']),
    more));
}

export function admissionPart(admission) {
  return el('section', {}, el('h2', {}, 'What the screens found'),
    el('div', { class: 'table' }, el('table', {},
      el('thead', {}, el('tr', {}, ['Screen', 'Stage', 'Finding', 'Evidence'].map((name) => el('th', { scope: 'col' }, name)))),
      el('tbody', {}, admission.findings.map((found) => el('tr', {}, el('th', { scope: 'row' }, verbatim(found.screen.name)), el('td', {}, found.stage), el('td', {}, el('span', { class: `tag ${found.finding}` }, found.finding)),
        el('td', {}, found.evidence !== null && found.evidence !== undefined && el('details', {}, el('summary', {}, 'Show'), el('pre', { class: 'text' }, verbatim(JSON.stringify(found.evidence, null, 2)))))))))));
}

const sides = (sample) => new Set(sample.cells.filter((cell) => !cell.missing && cell.difference !== 0).map((cell) => Math.sign(cell.difference)));

const KINDS = [
  ['all', 'All', () => true], ['challenger', 'Challenger better', (sample) => sample.difference > 0], ['king', 'King better', (sample) => sample.difference < 0],
  ['tie', 'Ties', (sample) => sample.difference === 0], ['split', 'Judges split', (sample) => sides(sample).size > 1],
  ['flips', 'Order flips', (sample) => sample.cells.some((cell) => cell.flipped)], ['missing', 'Missing answers', (sample) => sample.cells.some((cell) => cell.missing)],
];

const ORDERS = [
  ['plan', 'As the rule consumed them', (one, other) => one.sample - other.sample],
  ['challenger', 'Best for the challenger first', (one, other) => other.difference - one.difference],
  ['king', 'Best for the king first', (one, other) => one.difference - other.difference],
  ['repo', 'By repository', (one, other) => one.repo.localeCompare(other.repo)],
];

// The samples of `all` as cards, which are made as they are needed and filled when they are
// opened: `load` gives the texts of one. Where `find` is given, its answer to a text is a
// set of samples, and there is a field to search in. `first` is opened at once.
export function samplesPart(all, { first, load, find }) {
  const list = el('div', { class: 'cards' });
  const said = el('p', { class: 'quiet found', role: 'status' });
  // The rows from `start` to `shown` are there.
  let [kind, order, found, start, shown, turn] = ['all', 'plan', null, 0, ROWS, 0];
  const made = new Map();
  const cardOf = (sample) => {
    if (!made.has(sample.sample)) made.set(sample.sample, sampleCard(sample, all.judges, load));
    return made.get(sample.sample);
  };
  function fits() {
    const wanted = KINDS.find(([value]) => value === kind)[2];
    return all.samples.filter((sample) => wanted(sample) && (!found || found.has(sample.sample)))
      .sort(ORDERS.find(([value]) => value === order)[2]);
  }
  function draw() {
    const rows = fits();
    show(list,
      start > 0 && el('button', { type: 'button', class: 'more', onclick: () => { start = Math.max(start - ROWS, 0); draw(); } }, `Show earlier (${count(start)})`),
      rows.slice(start, shown).map(cardOf),
      rows.length === 0 && el('p', { class: 'quiet' }, 'No such sample.'),
      rows.length > shown && el('button', { type: 'button', class: 'more', onclick: () => { shown += ROWS; draw(); } }, `Show more (${count(rows.length - shown)})`));
    show(said, (found || kind !== 'all') && `${count(rows.length)} of ${count(all.samples.length)} samples`);
  }
  const buttons = KINDS.map(([value, name, wanted]) => {
    const many = all.samples.filter(wanted).length;
    return el('button', { type: 'button', 'data-kind': value, 'aria-pressed': value === kind ? 'true' : 'false', disabled: many === 0, onclick: () => choose(value) }, name, el('span', { class: 'number' }, ` ${count(many)}`));
  });
  function choose(value) {
    [kind, start, shown] = [value, 0, ROWS];
    buttons.forEach((button, place) => button.setAttribute('aria-pressed', KINDS[place][0] === kind ? 'true' : 'false'));
    draw();
  }
  async function search(text) {
    const mine = ++turn;
    const wanted = text.trim();
    if (wanted) show(said, 'Searching\u2026');
    const answer = wanted ? await find(wanted, () => mine !== turn) : null;
    if (mine !== turn) return;
    [found, start, shown] = [answer, 0, ROWS];
    draw();
  }
  const sorting = el('select', { 'aria-label': 'Order of the samples' }, ORDERS.map(([value, name]) => el('option', { value }, name)));
  sorting.addEventListener('change', () => { [order, start, shown] = [sorting.value, 0, ROWS]; draw(); });
  const field = find && el('input', { type: 'search', id: 'q', 'aria-label': 'Search in the samples', placeholder: 'Search replies, tasks, judges\u2019 words', autocomplete: 'off', spellcheck: 'false' });
  if (field) {
    let wait = 0;
    field.addEventListener('input', () => { clearTimeout(wait); wait = setTimeout(() => search(field.value), 150); });
  }
  // Puts the card of `sample` among those that are there, and opens it.
  function reveal(sample) {
    [kind, order, found] = ['all', 'plan', null];
    sorting.value = order;
    if (sample < start || sample >= shown) [start, shown] = [Math.max(sample - 5, 0), sample + ROWS];
    buttons.forEach((button, place) => button.setAttribute('aria-pressed', KINDS[place][0] === kind ? 'true' : 'false'));
    draw();
    const card = [...list.querySelectorAll('.card')].find((card) => card.getAttribute('data-sample') === String(sample));
    if (card) card.open = true;
    return card;
  }
  if (first === undefined) draw();
  else reveal(first);
  function open(sample) {
    const card = reveal(sample);
    if (!card) return;
    card.scrollIntoView({ block: 'start' });
    card.querySelector('summary').focus();
  }
  // The card `by` places after the one that has the focus, made if need be.
  function step(by) {
    const cards = () => [...list.querySelectorAll('.card')];
    const at = cards().findIndex((card) => card.contains(document.activeElement));
    if (at + by >= cards().length && fits().length > shown) {
      shown += ROWS;
      draw();
    }
    const next = cards()[Math.max(at + by, 0)];
    if (!next) return;
    next.scrollIntoView({ block: next.open ? 'start' : 'nearest' });
    next.querySelector('summary').focus();
  }
  const node = el('section', { id: 'samples' }, el('h2', {}, 'Samples'),
    el('p', { class: 'quiet' }, 'Each bar is a sample, in the order in which the rule consumed them: up for the challenger, down for the king.'),
    sampleStrip(all.samples, open),
    el('div', { class: 'filter', role: 'group', 'aria-label': 'Samples' }, buttons, el('div', { class: 'find' }, field, sorting)), said, list);
  return { node, open, step, field, search };
}
