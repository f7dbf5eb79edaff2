// Sample cards: the task, both replies, and every judge in both orders. They take what
// SampleCard and SampleNumbers hold. Every text in them is somebody else's.

import { differences } from './diff.js';
import { el, verbatim } from './dom.js';
import { count, fixed, points } from './format.js';

// A text and what is left out of it. `parts` are the same text in parts, of which those that
// another text lacks are marked.
export function text(content, name, parts = [[content.text, false]]) {
  return [
    el('pre', { class: 'text', dir: 'auto', tabindex: '0', 'aria-label': name },
      parts.map(([part, alone]) => (alone ? el('mark', { class: 'alone' }, verbatim(part)) : verbatim(part)))),
    content.cut > 0 && el('p', { class: 'quiet' }, `${count(content.cut)} more bytes are in the record.`),
  ];
}

const ENDS = { stop: 'ended by itself', length: 'cut at the limit', unknown: 'the provider did not say how it ended' };

// `others` are the names of the judges that were given the reply's twin in its place.
function reply(side, card, parts, others) {
  const name = side === 'king' ? 'King' : 'Challenger';
  const tokens = card.tokens === null || card.tokens === undefined ? '' : `, ${count(card.tokens)} tokens`;
  return el('section', { class: `reply ${side}`, 'aria-label': `${name}'s reply` },
    el('h4', {}, name, el('span', { class: 'quiet' }, card.content ? `${ENDS[card.note] || card.note}${tokens}` : card.note)),
    others.length > 0 && el('p', { class: 'notice' }, 'It beat its own twin, the same action without whatever its outcome does not need: it talks to judges. ', verbatim(others.join(', ')), ' judged the twin in its place, which stands above the answers.'),
    card.content ? text(card.content, `${name}'s reply`, parts) : el('p', { class: 'quiet' }, 'There is no reply.'));
}

// The twins that a judge was given; pages of before have none.
const twins = (judge) => judge.twins || [];

const STATES = {
  abstained: 'abstained', unreadable: 'could not be read', missing: 'did not answer', void: 'not listened to: it had failed a canary',
  identical: 'not asked: both replies are the same', unknown: 'unknown',
};

function answer(card) {
  const first = card.order === 'king_first' ? 'king' : 'challenger';
  const scores = Object.entries(card.scores);
  return el('div', { class: 'answer' },
    el('h6', {}, `${first === 'king' ? 'King' : 'Challenger'} shown first`),
    card.state === 'scored'
      ? el('ul', { class: 'scores' }, scores.map(([metric, score]) => el('li', {},
        el('span', {}, metric), el('span', { class: 'number', 'data-score': metric }, fixed(score, 3)),
        el('span', { class: 'quiet' }, score === 0.5 ? 'tie' : `for the ${score > 0.5 === (first === 'king') ? 'king' : 'challenger'}`))))
      : el('p', { class: 'quiet' }, STATES[card.state] || card.state),
    card.words && el('details', {}, el('summary', {}, card.state === 'scored' ? 'In its own words' : 'Why'), text(card.words, "The judge's words")));
}

const CAUSES = {
  outage: 'missing: an outage', replies: 'missing: because of the replies', question: 'missing: whatever the replies',
  void: 'missing: the judge had failed a canary', missing: 'missing',
};

function judge(card, cell, name) {
  return el('section', { class: 'judge' },
    el('h5', {}, verbatim(name),
      el('span', { class: 'number', 'data-cell': card.judge }, points(cell.difference)),
      cell.flipped && el('span', { class: 'tag flip', title: 'Shown in the other order, the judge preferred the other side.' }, 'order flip'),
      cell.missing && el('span', { class: 'tag missing' }, CAUSES[cell.missing] || 'missing'),
      twins(card).length > 0 && el('span', { class: 'tag missing', title: 'The answers are about a twin, not about the reply above.' }, 'twin judged')),
    twins(card).map(({ side, content }) => [el('h6', {}, `what it judged in place of the ${side}'s reply`), text(content, `Twin of the ${side}'s reply`)]),
    el('div', { class: 'answers' }, card.answers.map(answer)));
}

// The card of a sample, closed until somebody opens it; `load` gives its texts then.
export function sampleCard(numbers, judges, load) {
  const flips = numbers.cells.filter((cell) => cell.flipped).length;
  const missing = numbers.cells.filter((cell) => cell.missing).length;
  const side = numbers.difference > 0 ? 'challenger' : numbers.difference < 0 ? 'king' : 'tie';
  const body = el('div', { class: 'card-body' });
  const card = el('details', { class: 'card', id: `sample-${numbers.sample}`, 'data-sample': numbers.sample },
    el('summary', {},
      el('span', { class: 'card-number' }, `Sample ${numbers.sample}`),
      el('span', { class: 'card-repo', dir: 'auto' }, verbatim(numbers.repo)),
      flips > 0 && el('span', { class: 'tag flip' }, `${flips} ${flips === 1 ? 'flip' : 'flips'}`),
      missing > 0 && el('span', { class: 'tag missing' }, `${missing} missing`),
      el('span', { class: `number ${side}`, 'data-difference': '' }, points(numbers.difference))),
    body);
  let asked = false;
  card.addEventListener('toggle', async () => {
    if (!card.open || asked) return;
    asked = true;
    body.replaceChildren(el('p', { class: 'quiet' }, 'Loading…'));
    try {
      const texts = await load(numbers.sample);
      body.replaceChildren(...content(texts, numbers, judges));
    } catch (error) {
      asked = false;
      body.replaceChildren(el('p', { class: 'notice' }, `The texts cannot be read: ${error.message}`));
    }
  });
  return card;
}

function content(texts, numbers, judges) {
  const earlier = texts.earlier_messages;
  return [
    el('details', { class: 'task' },
      el('summary', {}, 'The task', el('span', { class: 'quiet' }, earlier > 0 ? `after ${count(earlier)} earlier messages` : '')),
      texts.messages.map((message) => [el('h6', {}, message.role), text(message, `Message of the ${message.role}`)]),
      el('h6', {}, 'what the data set recorded'), text(texts.reference, 'Recorded reply')),
    replies(texts.replies, (side) => texts.judges.filter((card) => twins(card).some((twin) => twin.side === side)).map((card) => judges[card.judge].name)),
    el('div', { class: 'judges' }, texts.judges.map((card) => judge(card, numbers.cells[card.judge], judges[card.judge].name))),
  ];
}

// Both replies side by side; what one of them has alone is marked. `others` names the judges
// that were given the twin of a side's reply.
function replies([king, challenger], others) {
  const both = king.content && challenger.content;
  const same = both && king.content.text === challenger.content.text;
  const marked = both && !same ? differences(king.content.text, challenger.content.text) : null;
  return el('div', {},
    el('div', { class: 'replies' }, reply('king', king, marked ? marked[0] : undefined, others('king')), reply('challenger', challenger, marked ? marked[1] : undefined, others('challenger'))),
    both && el('p', { class: 'quiet small' }, same ? 'Both replies are the same.' : marked ? 'What one reply has and the other lacks is marked.' : 'The replies have too little in common for their differences to be marked.'));
}
