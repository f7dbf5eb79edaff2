// The report of a distillation: its loss by step, what it learnt from and what came of it.
// Everything that it shows is in an element of this file that holds JSON.

import { lossChart } from './chart.js';
import { code, facts, head, label } from './duel.js';
import { el, show, verbatim } from './dom.js';
import { count, fixed, points, short } from './format.js';

const all = JSON.parse(document.getElementById('distillation').textContent);
const { record } = all;
const { plan } = record;
const steps = plan.stages.reduce((sum, stage) => sum + stage.engine.steps, 0);
const table = (columns, rows) => el('div', { class: 'table' }, el('table', {}, columns, el('tbody', {}, rows)));
const right = (...content) => el('td', { class: 'right number' }, content);

// What came of it, in a sentence.
function ended() {
  if (record.state === 'running') return `${count(record.losses.length)} of ${count(steps)} steps are taken.`;
  if (!record.gate) return 'The model was exported without a gate.';
  return record.gate.passed ? 'The child passed its gate.' : 'The child did not pass its gate.';
}

function lossPart() {
  let begin = 0;
  const stages = [];
  for (const { engine } of plan.stages) {
    const losses = record.losses.slice(begin, begin + engine.steps);
    begin += engine.steps;
    if (losses.length > 0) stages.push(losses);
  }
  if (stages.length === 0) return el('p', { class: 'quiet' }, 'No step is taken yet.');
  const [first, last] = [record.losses[0], record.losses.at(-1)];
  const said = `Loss ${fixed(first, 3)} at the first step, ${fixed(last, 3)} at step ${record.losses.length}.`;
  return el('div', { class: 'charts' }, el('figure', {}, el('figcaption', {}, 'Loss of each step',
    el('span', { class: 'quiet' }, 'nats per weighted token; the dark line is a mean over neighbours. Stages with other objectives have other scales.')), lossChart(stages, said)));
}

function heldOutPart() {
  if (record.held_out.length === 0) return null;
  const rows = record.held_out.map(({ of, nats }) => el('tr', {}, el('th', { scope: 'row' }, verbatim(of)), right(fixed(nats, 4))));
  return el('div', {}, el('h2', {}, 'Held out'), table(head('Model', 'Nats per token'), rows),
    el('p', { class: 'quiet' }, `The cross-entropy on ${count(plan.data.held_out.measured)} conversations that are never trained on.`));
}

function stagesPart() {
  const rows = plan.stages.map(({ settings, engine, teacher, conversations }, index) => el('tr', {},
    el('th', { scope: 'row' }, `${index + 1}: ${settings.objective} on ${settings.turns}`, settings.prompts ? `, tokens of prompts count ${settings.prompts}` : '', settings.control ? `, a control: ${settings.control}` : ''),
    right(teacher ? code(short(teacher.parameters)) : '\u2013'), right(count(conversations)), right(count(engine.steps))));
  return el('div', {}, el('h2', {}, 'Stages'), table(head('Stage', 'Teacher', 'Conversations', 'Steps'), rows),
    el('p', { class: 'quiet' }, `${count(plan.accumulate)} conversations per step, each of at most ${count(plan.max_tokens)} tokens; ${plan.rename ? 'names are replaced' : 'names are as recorded'}.`));
}

function dataPart() {
  const rows = plan.data.sources.map(({ name, digest, license, rows: many }) => el('tr', {},
    el('th', { scope: 'row' }, verbatim(name)), right(license === null ? 'unknown' : verbatim(license)), right(count(many)), right(code(short(digest)))));
  const left = Object.entries(plan.data.left_out).filter(([, many]) => many > 0).map(([why, many]) => `${count(many)} ${why.replaceAll('_', ' ')}`);
  const [cut, within] = [[], `${count(plan.max_tokens)} tokens`];
  let lost = 0;
  for (const set of plan.data.sets) {
    if (set.dropped > 0) left.push(`${count(set.dropped)} of ${set.turns} without a reply within ${within}`);
    for (const [longest, many] of Object.entries(set.without_room || {})) left.push(`${count(many)} of ${set.turns} without room for a sampled reply of ${count(Number(longest))} tokens within ${within}`);
    if (set.cut > 0) cut.push(`${count(set.cut)} of ${set.turns} at ${within}`);
    lost += set.cut_supervised;
  }
  return el('section', { id: 'data' }, el('h2', {}, 'Data'), table(head('Source', 'License', 'Conversations', 'Digest'), rows),
    el('p', { class: 'quiet' }, left.length > 0 ? `Left out: ${left.join(', ')}.` : 'Nothing is left out.'),
    cut.length > 0 && el('p', { class: 'quiet' }, `Cut: ${cut.join(', ')}.`),
    lost > 0 && el('p', { class: 'quiet' }, `The length cap takes away ${count(lost)} tokens of replies.`));
}

function gatePart() {
  const { gate } = record;
  if (!gate) return null;
  const { duel } = gate;
  return el('section', { id: 'gate' }, el('h2', {}, 'Gate'),
    facts(duel && label('Margin', `${points(duel.margin)} points`), duel && label('Samples', count(duel.samples)),
      duel && duel.record && label('Record of the duel', code(short(duel.record))), label('Findings of screens', count(gate.findings.length))));
}

function provenancePart() {
  return el('section', { id: 'provenance' }, el('h2', {}, 'Provenance'),
    facts(label('Plan', code(all.plan)), label('Student', code(plan.student.parameters)),
      record.model && label('Child', code(record.model)), label('Data', code(plan.data.digest)),
      label('Seed', all.seed), label('Build', verbatim(plan.build.version)),
      label('Checkpoints', count(record.checkpoints.length), 'written, of which the last ones are kept')));
}

document.title = `${all.name} \u00b7 albedo`;
show(document.getElementById('content'),
  el('section', { class: 'hero' }, el('div', {},
    el('p', { class: 'eyebrow' }, verbatim(all.name), ', plan ', code(short(all.plan))), el('h1', {}, ended()),
    record.gate && el('p', { class: 'lead' }, verbatim(record.gate.evidence)))),
  el('section', { id: 'loss' }, el('h2', { class: 'hidden' }, 'Loss'), lossPart()),
  el('section', { class: 'columns' }, heldOutPart(), stagesPart()), dataPart(), gatePart(), provenancePart());
show(document.getElementById('made'), `Made by ${all.made_by} from a record that it has checked. This file asks for nothing.`);
document.body.setAttribute('data-ready', Math.round(performance.now()));
