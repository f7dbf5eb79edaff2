// The report of records: one at a time, and all together where there are several.
// Everything that it shows is in elements of this file that hold JSON.

import { lengthChart, marginMark, ratingMark } from './chart.js';
import { admissionPart, charts, code, facts, head, label, number, percent, samplesPart, scoresPart, trustPart, two, whole } from './duel.js';
import { el, show, verbatim } from './dom.js';
import { count, duration, fixed, interval, outcome, points, short } from './format.js';

const embedded = (id) => JSON.parse(document.getElementById(id).textContent);
const study = embedded('study');
const content = document.getElementById('content');
const several = study.records.length > 1;
let samples = null;

// ---- what is embedded

const records = new Map();
function record(place) {
  if (!records.has(place)) records.set(place, embedded(`record-${place}`));
  return records.get(place);
}

// Texts of samples, by page; the last few pages are kept.
const pages = new Map();
function page(place, number) {
  const id = `record-${place}-texts-${number}`;
  if (!pages.has(id)) {
    if (pages.size > 7) pages.delete(pages.keys().next().value);
    pages.set(id, embedded(id));
  }
  return pages.get(id);
}

const load = (place) => async (sample) => {
  const card = page(place, Math.floor(sample / study.page_size)).find((card) => card.sample === sample);
  if (!card) throw new Error('the report has no texts of this sample');
  return card;
};

// Samples with `text` in their repository, task, replies, or judges' words. Between pages
// the browser gets to draw, and a newer search ends this one.
const find = (place, all) => async (text, ended) => {
  const wanted = text.toLowerCase();
  const has = (value) => (typeof value === 'string' ? value.toLowerCase().includes(wanted) : value !== null && typeof value === 'object' && Object.values(value).some(has));
  const found = new Set(all.samples.filter((sample) => sample.repo.toLowerCase().includes(wanted) || String(sample.sample) === wanted).map((sample) => sample.sample));
  for (let number = 0; number < study.records[place].pages; number += 1) {
    if (ended()) break;
    const raw = document.getElementById(`record-${place}-texts-${number}`).textContent;
    for (const { sample, messages, reference, replies, judges } of JSON.parse(raw)) {
      if (has([messages, reference, replies.map((reply) => reply.content), judges.map((judge) => [judge.twins, judge.answers.map((answer) => answer.words)])])) found.add(sample);
    }
    if (number % 8 === 7) await new Promise((next) => setTimeout(next));
  }
  return found;
};

// ---- small parts

const tag = (of) => el('span', { class: `tag ${of.study ? 'study' : of.outcome}` }, outcome(of)[0]);
const text = (value) => value;
const place = (number, part) => (several ? `#/${number}${part ? `/${part}` : ''}` : `#/${part || ''}`);
const table = (columns, rows, name) => el('div', { class: 'table' }, el('table', { class: name || '' }, columns, el('tbody', {}, rows)));

// ---- several records

function overview() {
  const reach = Math.max(5, ...study.records.map((of) => Math.abs(of.margin || 0)),
    ...study.records.filter((of) => of.interval).flatMap((of) => [Math.min(Math.abs(of.interval.low), 40), Math.min(Math.abs(of.interval.high), 40)]));
  const model = (digest) => (digest ? code(short(digest)) : '\u2013');
  const rows = study.records.map((of, number) => el('tr', {},
    el('td', { class: 'name' }, el('a', { href: place(number) }, verbatim(of.name))),
    el('td', { class: 'wide' }, model(of.king)), el('td', { class: 'wide' }, model(of.challenger)), el('td', {}, tag(of)),
    el('td', { class: 'right number' }, of.margin === null ? '\u2013' : points(of.margin)),
    el('td', { class: 'wide interval' }, of.margin !== null && [marginMark(of, reach), el('span', { class: 'quiet number' }, interval(of.interval))]),
    el('td', { class: 'right number' }, of.samples === null ? '\u2013' : count(of.samples))));
  const columns = el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, 'Record'), el('th', { scope: 'col', class: 'wide' }, 'King'), el('th', { scope: 'col', class: 'wide' }, 'Challenger'), el('th', { scope: 'col' }, 'Outcome'),
    el('th', { scope: 'col', class: 'right' }, 'Margin'), el('th', { scope: 'col', class: 'wide' }, '95 % interval'), el('th', { scope: 'col', class: 'right' }, 'Samples')));
  return [
    el('section', { class: 'hero' }, el('div', {}, el('p', { class: 'eyebrow' }, 'Report'), el('h1', {}, `${count(study.records.length)} records`),
      el('p', { class: 'lead' }, 'Each was verified before this report was written. Margins are the challenger\u2019s points minus the king\u2019s.'))),
    study.ratings && ratingsPart(study.ratings),
    el('section', {}, el('h2', {}, 'Records'), table(columns, rows, 'records')),
  ];
}

function ratingsPart({ models, groups, fit, judges, other_panels: others, repeated }) {
  const rated = models.filter((model) => model.rating !== null);
  const leftOut = [
    others > 0 && el('p', { class: 'quiet' }, `${count(others)} ${others === 1 ? 'duel of another panel is' : 'duels of other panels are'} not rated: another panel has another scale, and these ratings are of the judges `, verbatim(judges.join(', ')), '.'),
    repeated > 0 && el('p', { class: 'quiet' }, `${count(repeated)} ${repeated === 1 ? 'duel has' : 'duels have'} the models, tasks, sampler, seed, context and generation settings of another: the one with the most samples counts.`)];
  const name = (model) => el('span', { title: model.parameters }, code(short(model.parameters)), el('span', { class: 'quiet' }, ' ', verbatim(model.architecture)));
  if (rated.length === 0) {
    return el('section', {}, el('h2', {}, 'Ratings'), leftOut,
      el('p', {}, models.length < 2 ? 'All records have the same model on both sides: there is nothing to rate.'
        : 'There is no common scale: some models never met, not over others either, or one has lost every point. Within each of these groups models can be compared:'),
      el('ul', { class: 'groups' }, groups.map((group) => el('li', {}, group.map((at) => [name(models[at]), ' '])))));
  }
  const scale = rated.flatMap((model) => [model.interval.low, model.interval.high]);
  const ends = [Math.min(...scale), Math.max(...scale)];
  const rows = rated.map((model) => [model, models.indexOf(model)]).sort(([one], [other]) => other.rating - one.rating).map(([model, at], rank) => el('tr', {},
    el('td', { class: 'number' }, rank + 1), el('th', { scope: 'row' }, name(model)),
    el('td', { class: 'right' }, number(`ratings.models.${at}.rating`, model.rating, whole)),
    el('td', { class: 'wide' }, ratingMark(model.rating, model.interval, ends)),
    el('td', { class: 'right quiet number' }, `${whole(model.interval.low)} to ${whole(model.interval.high)}`),
    el('td', { class: 'right' }, number(`ratings.models.${at}.samples`, model.samples, count))));
  const circle = fit.p_value === null ? 'No circle is closed, so whether one number per model is enough cannot be tested.'
    : `Transitivity: deviance ${fixed(fit.deviance, 2)} with ${count(fit.degrees)} ${fit.degrees === 1 ? 'degree' : 'degrees'} of freedom, p = ${fixed(fit.p_value, 3)}. ${fit.p_value < 0.05 ? 'Models beat each other in a circle more than chance explains: one number per model is not enough.' : 'One number per model explains the records.'}`;
  return el('section', {}, el('h2', {}, 'Ratings'), leftOut,
    table(el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, ''), el('th', { scope: 'col' }, 'Model'), el('th', { scope: 'col', class: 'right' }, 'Rating'), el('th', { scope: 'col', class: 'wide' }, el('span', { class: 'hidden' }, 'Interval')), el('th', { scope: 'col', class: 'right' }, '95 % interval'), el('th', { scope: 'col', class: 'right' }, 'Samples'))), rows),
    el('p', { class: 'quiet' }, 'Bradley and Terry\u2019s model on Elo\u2019s scale: 400 points are odds of ten to one, and the mean is 0. Every model can be compared with every other. ', circle));
}

// ---- one record

function one(at, first) {
  const all = record(at);
  const [word, sentence] = outcome(all);
  const duel = all.verdict !== undefined;
  const title = el('section', { class: 'hero duel' },
    el('div', {},
      el('p', { class: 'eyebrow' }, verbatim(all.name), ', record ', code(short(all.digest))),
      el('h1', {}, sentence),
      el('p', { class: 'lead' }, all.sentence.replace(/^[^:]*: /, (lead) => (duel ? '' : lead)).replace(/^./, (letter) => letter.toUpperCase())),
      duel && el('p', { class: 'quiet versus' }, el('span', { class: 'challenger' }, 'challenger ', code(short(all.plan.challenger.model.parameters))), ' against ', el('span', { class: 'king' }, 'king ', code(short(all.plan.king.model.parameters))))),
    duel && el('aside', { class: 'panel score', 'aria-label': 'Margin' },
      el('p', {}, number('verdict.margin', all.verdict.margin), el('span', { class: 'quiet' }, ' points')),
      el('p', { class: 'quiet' }, all.interval ? [all.interval_kind, ' ', el('span', { class: 'number' }, interval(all.interval))] : 'no interval'),
      el('p', { class: 'quiet' }, number('verdict.samples', all.verdict.samples, count), ' of ', number('plan.samples', all.plan.samples, count), ' samples')));
  samples = duel && all.samples.length > 0 ? samplesPart(all, { first, load: load(at), find: find(at, all) }) : null;
  document.title = `${word}: ${all.name} \u00b7 albedo`;
  return [
    title,
    all.admission && admissionPart(all.admission),
    duel && [
      el('section', { id: 'evidence' }, el('h2', { class: 'hidden' }, 'Evidence'), charts(all.evidence)),
      scoresPart(all), el('div', { class: 'columns' }, trustPart(all, moreTrust(all)), orderPart(all)), lengthPart(all),
      samples && samples.node, el('div', { class: 'columns' }, costsPart(all), knownPart(all)), provenancePart(all),
    ],
    !duel && provenancePart(all),
  ];
}

function moreTrust({ verdict, analysis }) {
  const { strata } = verdict;
  return [
    analysis.sd !== null && label('SD of samples', [number('analysis.sd', analysis.sd, two), ' points'], ` standard error ${two(analysis.standard_error)}`),
    analysis.agreement !== null && label('Judges agree', number('analysis.agreement', analysis.agreement, two), ' Krippendorff\u2019s alpha: 1 is always, 0 by chance'),
    strata && label('Strata', number('verdict.strata.rho', strata.rho), ' correlation with earlier samples of the same repository'),
  ];
}

function orderPart({ analysis }) {
  const share = (path, of) => (of ? [number(`${path}.share`, of.share, percent), el('span', { class: 'quiet range number' }, `${fixed(100 * of.interval.low, 1)} to ${fixed(100 * of.interval.high, 1)}`)] : '\u2013');
  const rows = analysis.judges.map((judge, at) => el('tr', {}, el('th', { scope: 'row' }, verbatim(judge.judge)),
    el('td', { class: 'right' }, share(`analysis.judges.${at}.flips`, judge.flips)),
    el('td', { class: 'right' }, share(`analysis.judges.${at}.first`, judge.first))));
  return el('section', { id: 'order' }, el('h2', {}, 'Does the order matter?'),
    table(head('Judge', 'Flips', 'Prefers the first'), rows),
    el('p', { class: 'quiet' }, 'A flip: shown in the other order, the judge preferred the other side. A judge that does not look at the order prefers the reply shown first half of the time. Below each share is its 95 % interval.'));
}

function lengthPart({ analysis, samples: numbers, lengths }) {
  const { length, judges } = analysis;
  if (length.king === null || length.challenger === null) return null;
  const dots = numbers.map((sample, at) => [lengths[at], sample.difference]).filter(([longer]) => longer !== null && longer !== undefined);
  const said = length.correlation === null ? 'Lengths or differences never vary.' : `Correlation of difference and length ${fixed(length.correlation, 2)}.`;
  const { controlled } = length;
  return el('section', { id: 'length' }, el('h2', {}, 'Does length matter?'), el('div', { class: 'charts' },
    el('figure', {}, el('figcaption', {}, 'Preference against length', el('span', { class: 'quiet' }, 'points, against the characters by which the challenger\u2019s reply is longer; a dot per sample')), lengthChart(dots, said)),
    facts(
      label('King', [number('analysis.length.king', length.king, whole), ' characters on average']),
      label('Challenger', [number('analysis.length.challenger', length.challenger, whole), ' characters on average']),
      label('Correlation', length.correlation === null ? '\u2013' : number('analysis.length.correlation', length.correlation), ' 0: length says nothing about who is preferred'),
      controlled && label('At equal length', [number('analysis.length.controlled.preferred.share', controlled.preferred.share, percent), ' for the challenger'], ` 95 % interval ${percent(controlled.preferred.interval.low)} to ${percent(controlled.preferred.interval.high)}`),
      judges.length > 1 && judges.map((judge, at) => label(el('span', {}, 'Correlation, ', verbatim(judge.judge)), judge.length_correlation === null ? '\u2013' : number(`analysis.judges.${at}.length_correlation`, judge.length_correlation))))));
}

function costsPart({ costs, analysis, judges }) {
  const tokens = (side) => [el('td', { class: 'right' }, number(`analysis.${side}.prompt`, analysis[side].prompt, count)), el('td', { class: 'right' }, number(`analysis.${side}.reply`, analysis[side].reply, count))];
  const calls = (spent) => el('td', { class: 'right number' }, spent ? count(spent.calls) : '\u2013');
  const usd = (spent) => el('td', { class: 'right number' }, !spent || spent.unpriced > 0 ? '\u2013' : `$${spent.usd.toFixed(spent.usd > 0 && spent.usd < 0.1 ? 4 : 2)}`);
  const side = (name, key) => el('tr', {}, el('th', { scope: 'row' }, name), calls(costs && costs[key]), tokens(key), usd(costs && costs[key]));
  const judge = (name, spent) => el('tr', {}, el('th', { scope: 'row' }, name), calls(spent), [spent.prompt_tokens, spent.completion_tokens].map((value) => el('td', { class: 'right number' }, spent.calls === 0 ? '\u2013' : count(value))), usd(spent));
  return el('section', { id: 'costs' }, el('h2', {}, 'Costs'),
    table(head('Who', 'Calls', 'Tokens read', 'Written', 'Price'), [side('King', 'king'), side('Challenger', 'challenger'),
      costs && costs.judges.map((spent, at) => judge(verbatim(judges[at].name), spent)), costs && costs.canaries.calls > 0 && judge('Canaries', costs.canaries)].flat(2).filter(Boolean)),
    el('p', { class: 'quiet' }, costs ? `${costs.failed === 0 ? 'No call failed' : `${count(costs.failed)} ${costs.failed === 1 ? 'call' : 'calls'} failed`}; ${duration(costs.seconds)} from the first to the last. Calls and prices are from the journal beside the record: no digest covers them.`
      : 'Calls and prices stand in the journal of the duel, which is not beside this record. Tokens are the record\u2019s.'));
}

const KNOWN = { recomputed: ['recomputed', 'clear'], attested: ['attested', 'clear'], asserted: ['asserted', 'flagged'], not_covered: ['not covered', ''] };

function knownPart({ claims, signers }) {
  return el('section', { id: 'known' }, el('h2', {}, 'What is known, and what is only said'),
    el('ul', { class: 'claims' }, claims.map((claim) => el('li', {}, el('span', { class: `tag ${KNOWN[claim.known][1]}` }, KNOWN[claim.known][0]), el('span', {}, verbatim(claim.part), el('span', { class: 'quiet' }, ': ', verbatim(claim.by)))))),
    el('p', { class: 'quiet small' }, 'Recomputed: this report\u2019s writer worked it out again. Attested: somebody other than the record\u2019s author vouches for it. Asserted: the author says so.'),
    signers.length > 0 ? el('p', {}, 'Signed by ', signers.map((key) => [code(verbatim(key)), ' '])) : el('p', { class: 'quiet' }, 'Nobody has signed this record.'));
}

function provenancePart({ digest, plan, builds, judges }) {
  const side = (name, key, of) => label(name, number(`plan.${key}.model.parameters`, of.model.parameters, text),
    [' ', verbatim(of.model.architecture), `, ${count(of.model.parameter_count)} parameters in `, verbatim(of.model.dtype), ', on ', verbatim(`${of.backend.name} ${of.backend.version}`)]);
  return el('section', { id: 'provenance' }, el('h2', {}, 'Provenance'), facts(
    label('Record', number('digest', digest, text)),
    plan && [side('King', 'king', plan.king), side('Challenger', 'challenger', plan.challenger),
      label('Tasks', number('plan.tasks.manifest', plan.tasks.manifest, text), ` ${count(plan.tasks.rows)} rows`),
      label('Seed', number('plan.seed', String(plan.seed), text)),
      plan.judges.map((judge, at) => label(el('span', {}, 'Judge ', verbatim(judges[at].name)), code(judge.identity.config), [' version ', verbatim(judge.identity.version), `, metrics ${judges[at].metrics.join(', ')}`])),
      plan.previous && label('Previous record', number('plan.previous', plan.previous, text)),
      builds.length > 0 && label(builds.length === 1 ? 'Build' : 'Builds', builds.map((build) => el('span', { class: 'digest' }, verbatim(build), ' ')))]));
}

// ---- theme, keys, places

const THEMES = ['auto', 'light', 'dark'];
const kept = (value) => {
  // A browser may refuse to keep anything for files.
  try {
    if (value !== undefined) localStorage.setItem('albedo-theme', value);
    return localStorage.getItem('albedo-theme');
  } catch {
    return null;
  }
};
let theme = THEMES.includes(kept()) ? kept() : 'auto';
const themeButton = el('button', { type: 'button', id: 'theme', title: 'Theme (t)', onclick: () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]) });
function setTheme(name) {
  theme = name;
  kept(name);
  document.documentElement.setAttribute('data-theme', name);
  show(themeButton, `Theme: ${name}`);
}

const KEYS = [['/', 'search in the samples'], ['j', 'next sample'], ['k', 'previous sample'], ['o', 'open or close the sample'], ['t', 'change the theme'], ['Esc', 'leave the search'], ['?', 'these keys']];
const help = el('dialog', { class: 'help', 'aria-label': 'Keys' }, el('h2', {}, 'Keys'), el('dl', { class: 'keys' }, KEYS.map(([key, does]) => el('div', {}, el('dt', {}, el('kbd', {}, key)), el('dd', {}, does)))),
  el('button', { type: 'button', onclick: () => help.close() }, 'Close'));

document.addEventListener('keydown', (event) => {
  const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
  if (event.key === 'Escape' && typing && samples) {
    samples.field.value = '';
    samples.search('');
    samples.field.blur();
  }
  if (typing || help.open || event.ctrlKey || event.metaKey || event.altKey) return;
  const does = {
    '/': () => samples && samples.field.focus(), j: () => samples && samples.step(1), k: () => samples && samples.step(-1),
    o: () => { const card = document.activeElement.closest('.card'); if (card) card.open = !card.open; },
    t: () => themeButton.click(), '?': () => help.showModal(),
  }[event.key];
  if (!does) return;
  event.preventDefault();
  does();
});

const PARTS = [['scores', 'Scores'], ['trust', 'Trust'], ['length', 'Length'], ['samples', 'Samples'], ['costs', 'Costs'], ['known', 'Known'], ['provenance', 'Provenance']];
let drawn;

// Places: `#/` is all records, or the only one; `#/2` is one of several, `#/2/scores` a part
// of it, `#/2/17` one of its samples. Of a single record the number is left out.
function go() {
  const steps = location.hash.replace(/^#\/?/, '').split('/').filter(Boolean);
  const at = several ? (/^\d+$/.test(steps[0] || '') ? Number(steps.shift()) : null) : 0;
  const part = steps[0] || '';
  const first = /^\d+$/.test(part) ? Number(part) : undefined;
  const known = at !== null && at < study.records.length;
  if (drawn !== at || first !== undefined) {
    show(content, known ? one(at, first) : overview());
    if (!known) [samples, document.title] = [null, `${count(study.records.length)} records \u00b7 albedo`];
    drawn = at;
    const there = known ? PARTS.filter(([id]) => document.getElementById(id)) : [];
    show(document.getElementById('parts'), several && el('a', { href: '#/' }, 'All records'), there.map(([id, name]) => el('a', { href: place(at, id) }, name)));
    window.scrollTo(0, 0);
  }
  const target = document.getElementById(first === undefined ? part : `sample-${first}`);
  if (target) requestAnimationFrame(() => target.scrollIntoView({ block: 'start' }));
}

setTheme(theme);
show(document.getElementById('tools'), themeButton, el('button', { type: 'button', title: 'Keys (?)', 'aria-label': 'Keys', onclick: () => help.showModal() }, '?'));
document.body.append(help);
show(document.getElementById('made'), `Made by ${study.made_by} from records that it has verified. This file asks for nothing.`);
window.addEventListener('hashchange', go);
go();
document.body.setAttribute('data-ready', Math.round(performance.now()));
