// Elements from text. Nothing here reads markup: whatever a model, a miner or a judge
// wrote becomes text nodes, and an attribute is one of a few that cannot run anything.

const SVG = 'http://www.w3.org/2000/svg';

const ATTRIBUTES = new Set([
  'class', 'id', 'title', 'role', 'lang', 'dir', 'type', 'value', 'scope', 'colspan', 'open', 'tabindex', 'hidden',
  'for', 'name', 'disabled', 'selected', 'datetime', 'x', 'y', 'x1', 'x2', 'y1', 'y2', 'cx', 'cy', 'r', 'd', 'width',
  'height', 'viewBox', 'points', 'text-anchor', 'preserveAspectRatio', 'rx', 'transform', 'placeholder', 'autocomplete',
  'spellcheck', 'download',
]);

// An element `tag` with attributes and children, which are nodes, texts, or nothing.
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// The same in a drawing.
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'onclick') node.addEventListener('click', value);
    else if (name === 'href') node.setAttribute('href', local(value));
    else if (ATTRIBUTES.has(name) || name.startsWith('aria-') || name.startsWith('data-')) {
      node.setAttribute(name, value === true ? '' : String(value));
    } else throw new Error(`no such attribute: ${name}`);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// A place on this page, or a file beside it; anything else leads nowhere.
function local(href) {
  return /^(#[\w/.:@%-]*|[\w-][\w./-]*)$/.test(href) && !href.includes('..') ? href : '#/';
}

// Characters that show nothing, or turn what is around them about.
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

// Text that somebody else wrote, as it is: characters that show nothing become visible.
export function verbatim(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(INVISIBLE)) {
    parts.push(text.slice(end, match.index));
    const name = `U+${match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}`;
    parts.push(el('span', { class: 'control', title: 'a character that shows nothing' }, name));
    end = match.index + match[0].length;
  }
  parts.push(text.slice(end));
  return parts;
}

// Replaces the children of `node`.
export function show(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

// A drawing that is made again when its place gets another width.
export function responsive(draw) {
  const box = el('div', { class: 'drawing' });
  let width = 0;
  const observer = new ResizeObserver(() => {
    const now = Math.floor(box.clientWidth);
    if (now > 0 && now !== width) {
      width = now;
      // Drawn within the callback, it would ask to be called again.
      requestAnimationFrame(() => show(box, draw(now)));
    }
  });
  observer.observe(box);
  return box;
}
