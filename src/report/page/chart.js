// Drawings of evidence and margins. They take what EvidenceTrace and IndexEntry hold.

import { responsive, svg } from './dom.js';
import { count, fixed, points } from './format.js';

const TEN = Math.log(10);

// A line through points, as a path.
function path(places) {
  return places.map(([x, y], index) => `${index ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');
}

// Steps of 1, 2 or 5 times a power of ten, at most `most` of them in [low, high].
function ticks(low, high, most) {
  const raw = (high - low) / Math.max(most, 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
  const first = Math.ceil(low / step);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(last - first + 1, 0) }, (_, index) => (first + index) * step);
}

function frame({ width, height, left, right, top, bottom }, x, y, label) {
  const inner = { left, right: width - right, top, bottom: height - bottom };
  const scale = ([low, high], from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  const at = { x: scale(x.domain, inner.left, inner.right), y: scale(y.domain, inner.bottom, inner.top) };
  const root = svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label, class: 'chart' });
  for (const { value, text } of y.ticks) {
    root.append(
      svg('line', { class: 'grid', x1: inner.left, x2: inner.right, y1: at.y(value), y2: at.y(value) }),
      svg('text', { class: 'tick', x: inner.left - 8, y: at.y(value) + 4, 'text-anchor': 'end' }, text),
    );
  }
  for (const { value, text } of x.ticks) {
    root.append(svg('text', { class: 'tick', x: at.x(value), y: inner.bottom + 18, 'text-anchor': 'middle' }, text));
  }
  return { root, at, inner };
}

// A factor such as 10 or 5,000.
function factor(log) {
  const value = Math.exp(log);
  if (value >= 1e6) return `\u00d710${superscript(Math.round(log / TEN))}`;
  return `\u00d7${count(value >= 10 ? Math.round(value) : Number(value.toPrecision(2)))}`;
}

function superscript(number) {
  return String(number).replace(/\d/g, (digit) => '\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079'[digit]).replace('-', '\u207b');
}

// The evidence that the challenger is better, against the boundary of a crown.
export function evidenceChart(trace) {
  const values = trace.points.map((point) => point.log_e_value);
  const given = (value) => value !== null && value !== undefined;
  const hopeless = trace.points.filter((point) => given(point.futility_log_e_value));
  const lowest = Math.max(values.reduce((low, value) => Math.min(low, value), 0), -6 * TEN);
  const highest = values.reduce((high, value) => Math.max(high, value), trace.boundary);
  const last = trace.points.at(-1);
  const said = last
    ? `Evidence ${factor(last.log_e_value)} after ${last.samples} of at most ${trace.cap} samples; a crown needs ${factor(trace.boundary)}.`
    : 'No samples yet.';
  return responsive((width) => {
    const narrow = width < 480;
    const exponents = ticks(lowest / TEN, highest / TEN, 4).filter((exponent) => Number.isInteger(exponent));
    const { root, at, inner } = frame(
      { width, height: narrow ? 200 : 240, left: 56, right: 12, top: 26, bottom: 30 },
      { domain: [0, trace.cap], ticks: ticks(0, trace.cap, narrow ? 5 : 8).map((value) => ({ value, text: count(value) })) },
      { domain: [lowest - 0.4, highest * 1.06], ticks: exponents.map((exponent) => ({ value: exponent * TEN, text: factor(exponent * TEN) })) },
      said,
    );
    const boundary = at.y(trace.boundary);
    root.append(
      svg('line', { class: 'boundary', x1: inner.left, x2: inner.right, y1: boundary, y2: boundary }),
      svg('text', { class: 'note', x: inner.right, y: boundary - 7, 'text-anchor': 'end' }, `a crown needs ${factor(trace.boundary)}`),
    );
    for (const look of trace.looks) {
      if (look < trace.cap) root.append(svg('line', { class: 'look', x1: at.x(look), x2: at.x(look), y1: inner.bottom, y2: inner.bottom - 6 }));
    }
    const clamp = (value) => Math.max(Math.min(value, highest), lowest);
    if (hopeless.length > 0) {
      const end = at.y(trace.futility_boundary);
      const apart = Math.abs(end - boundary) > 30;
      root.append(
        svg('line', { class: 'boundary hopeless', x1: inner.left, x2: inner.right, y1: end, y2: end }),
        apart ? svg('text', { class: 'note hopeless', x: inner.left + 6, y: end - 7 }, `out of reach at ${factor(trace.futility_boundary)}`) : '',
        svg('path', { class: 'hopeless', d: path([[at.x(0), at.y(0)], ...hopeless.map((point) => [at.x(point.samples), at.y(clamp(point.futility_log_e_value))])]) }),
      );
    }
    const places = [[at.x(0), at.y(0)], ...trace.points.map((point) => [at.x(point.samples), at.y(Math.max(point.log_e_value, lowest))])];
    root.append(svg('path', { class: 'evidence', d: path(places) }));
    const [x, y] = places.at(-1);
    root.append(svg('circle', { class: 'now', cx: x, cy: y, r: 4 }));
    return root;
  });
}

// The mean so far with its confidence sequence, against the least win.
export function meanChart(trace) {
  const shown = trace.points.filter((point) => point.interval);
  const spread = shown.filter((point) => point.samples >= trace.points.length / 8);
  const reach = Math.max(
    trace.win_margin * 2, 4,
    ...spread.flatMap((point) => [Math.abs(point.interval.low), Math.abs(point.interval.high)]),
    ...trace.points.slice(Math.floor(trace.points.length / 8)).map((point) => Math.abs(point.mean)),
  );
  const limit = Math.min(reach * 1.08, 100);
  const clamp = (value) => Math.max(-limit, Math.min(limit, value));
  const last = trace.points.at(-1);
  const said = last ? `Mean ${points(last.mean)} points after ${last.samples} samples.` : 'No samples yet.';
  return responsive((width) => {
    const narrow = width < 480;
    const { root, at, inner } = frame(
      { width, height: narrow ? 180 : 200, left: 56, right: 12, top: 14, bottom: 30 },
      { domain: [0, trace.cap], ticks: ticks(0, trace.cap, narrow ? 5 : 8).map((value) => ({ value, text: count(value) })) },
      { domain: [-limit, limit], ticks: ticks(-limit, limit, 5).map((value) => ({ value, text: value === 0 ? '0' : points(value).replace(/\.00$/, '') })) },
      said,
    );
    if (shown.length > 1) {
      const high = shown.map((point) => [at.x(point.samples), at.y(clamp(point.interval.high))]);
      const low = shown.map((point) => [at.x(point.samples), at.y(clamp(point.interval.low))]).reverse();
      root.append(svg('path', { class: 'band', d: `${path([...high, ...low])}Z` }));
    }
    root.append(
      svg('line', { class: 'zero', x1: inner.left, x2: inner.right, y1: at.y(0), y2: at.y(0) }),
      svg('line', { class: 'boundary', x1: inner.left, x2: inner.right, y1: at.y(clamp(trace.win_margin)), y2: at.y(clamp(trace.win_margin)) }),
      svg('path', { class: 'mean', d: path(trace.points.map((point) => [at.x(point.samples), at.y(clamp(point.mean))])) }),
    );
    if (last) root.append(svg('circle', { class: 'now', cx: at.x(last.samples), cy: at.y(clamp(last.mean)), r: 4 }));
    return root;
  });
}

// A margin with its interval in a row of a table; `reach` is the largest of all rows.
export function marginMark(numbers, reach) {
  const [width, height] = [148, 20];
  const x = (value) => width / 2 + (Math.max(-reach, Math.min(reach, value)) / reach) * (width / 2 - 5);
  const root = svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, class: 'margin', 'aria-hidden': 'true' });
  root.append(svg('line', { class: 'zero', x1: x(0), x2: x(0), y1: 2, y2: height - 2 }));
  if (numbers.interval) {
    root.append(svg('line', { class: 'whisker', x1: x(numbers.interval.low), x2: x(numbers.interval.high), y1: height / 2, y2: height / 2 }));
  }
  root.append(svg('circle', { class: numbers.margin < 0 ? 'dot king' : 'dot challenger', cx: x(numbers.margin), cy: height / 2, r: 4 }));
  return root;
}

// Every sample's difference, in plan order: up is the challenger's. Where there are more
// samples than pixels, a bar is the mean of some.
export function sampleStrip(samples, chosen) {
  const lowest = samples.reduce((low, sample) => Math.min(low, sample.difference), Infinity);
  const highest = samples.reduce((high, sample) => Math.max(high, sample.difference), -Infinity);
  return responsive((width) => {
    const height = 96;
    const many = samples.length > width ? Math.ceil(samples.length / (width / 2)) : 1;
    const bars = Array.from({ length: Math.ceil(samples.length / many) }, (_, index) => samples.slice(index * many, (index + 1) * many));
    const step = width / Math.max(bars.length, 1);
    const bar = Math.max(Math.min(step - 1, 14), 0.75);
    const y = (difference) => height / 2 - (difference / 100) * (height / 2 - 6);
    const root = svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', class: 'strip', 'aria-label': `Differences of ${samples.length} samples, from ${fixed(lowest, 2)} to ${fixed(highest, 2)} points.` });
    bars.forEach((group, index) => {
      const difference = group.reduce((sum, sample) => sum + sample.difference, 0) / group.length;
      const [from, to] = [y(Math.max(difference, 0)), y(Math.min(difference, 0))];
      const missing = group.some((sample) => sample.cells.some((cell) => cell.missing));
      const side = difference > 0 ? 'challenger' : difference < 0 ? 'king' : 'tie';
      const name = many > 1 ? `samples ${group[0].sample} to ${group.at(-1).sample}: ${points(difference)} points on average` : `sample ${group[0].sample}: ${points(difference)} points`;
      root.append(svg('rect', {
        class: `bar ${side}${missing ? ' missing' : ''}`, x: (index * step).toFixed(2), y: Math.min(from, to - 1).toFixed(2),
        width: bar.toFixed(2), height: Math.max(to - from, 2).toFixed(2), onclick: () => chosen(group[0].sample),
      }, svg('title', {}, name)));
    });
    root.append(svg('line', { class: 'zero', x1: 0, x2: width, y1: height / 2, y2: height / 2 }));
    return root;
  });
}

// How much longer the challenger's reply is against who is preferred: a dot per sample, at
// most 2,000 of them. `samples` are [characters, points].
export function lengthChart(samples, said) {
  const every = Math.ceil(samples.length / 2000);
  const shown = samples.filter((_, index) => index % every === 0);
  const reach = shown.reduce((most, [length]) => Math.max(most, Math.abs(length)), 1);
  return responsive((width) => {
    const narrow = width < 480;
    const signed = (value) => (value === 0 ? '0' : points(value).replace(/\.00$/, ''));
    const long = (value) => (value > 0 ? `+${count(value)}` : value < 0 ? `\u2212${count(-value)}` : '0');
    const { root, at, inner } = frame(
      { width, height: narrow ? 200 : 240, left: 56, right: 12, top: 12, bottom: 30 },
      { domain: [-reach, reach], ticks: ticks(-reach, reach, narrow ? 4 : 6).map((value) => ({ value, text: long(Math.round(value)) })) },
      { domain: [-105, 105], ticks: [-100, -50, 0, 50, 100].map((value) => ({ value, text: signed(value) })) },
      said,
    );
    root.append(
      svg('line', { class: 'zero', x1: inner.left, x2: inner.right, y1: at.y(0), y2: at.y(0) }),
      svg('line', { class: 'zero', x1: at.x(0), x2: at.x(0), y1: inner.top, y2: inner.bottom }),
    );
    for (const [length, difference] of shown) {
      const side = difference > 0 ? 'challenger' : difference < 0 ? 'king' : 'tie';
      root.append(svg('circle', { class: `point ${side}`, cx: at.x(length).toFixed(1), cy: at.y(difference).toFixed(1), r: 3 }));
    }
    return root;
  });
}

// A rating with its interval in a row of a table, on a scale that all rows share.
export function ratingMark(rating, interval, [low, high]) {
  const [width, height] = [220, 20];
  const x = (value) => 5 + ((value - low) / (high - low || 1)) * (width - 10);
  return svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, class: 'margin', 'aria-hidden': 'true' },
    low < 0 && high > 0 ? svg('line', { class: 'zero', x1: x(0), x2: x(0), y1: 2, y2: height - 2 }) : null,
    svg('line', { class: 'whisker', x1: x(interval.low), x2: x(interval.high), y1: height / 2, y2: height / 2 }),
    svg('circle', { class: 'now', cx: x(rating), cy: height / 2, r: 4 }));
}

// What is left of a budget.
export function budgetBar(left, whole) {
  return responsive((width) => {
    const share = Math.max(0, Math.min(1, left / whole));
    return svg('svg', { width, height: 8, viewBox: `0 0 ${width} 8`, role: 'img', class: 'budget', 'aria-label': `${Math.round(100 * share)} % of the error budget is left` },
      svg('rect', { class: 'whole', x: 0, y: 0, width, height: 8, rx: 4 }),
      svg('rect', { class: 'left', x: 0, y: 0, width: Math.max(share * width, 8).toFixed(1), height: 8, rx: 4 }));
  });
}

// The loss of each step, its mean over neighbours, and where a stage begins: `stages` has the
// losses of each. Where there are more steps than pixels, a point is the mean of some.
export function lossChart(stages, said) {
  const steps = stages.reduce((sum, losses) => sum + losses.length, 0);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  return responsive((width) => {
    const narrow = width < 480;
    const many = Math.max(1, Math.ceil(steps / width));
    let before = 0;
    const curves = stages.map((losses) => {
      const begin = before;
      before += losses.length;
      const groups = Array.from({ length: Math.ceil(losses.length / many) }, (_, index) => losses.slice(index * many, (index + 1) * many));
      const each = groups.map((group, index) => [begin + index * many + (group.length + 1) / 2, mean(group)]);
      const reach = Math.ceil(each.length / 40);
      const smooth = each.map(([step], index) => [step, mean(each.slice(Math.max(0, index - reach), index + reach + 1).map(([, loss]) => loss))]);
      return { begin, each, smooth };
    });
    const all = curves.flatMap(({ each }) => each.map(([, loss]) => loss));
    const lowest = all.reduce((low, loss) => Math.min(low, loss), 0);
    const highest = all.reduce((high, loss) => Math.max(high, loss), lowest + 1e-6);
    const { root, at, inner } = frame(
      { width, height: narrow ? 200 : 260, left: 56, right: 12, top: 26, bottom: 30 },
      { domain: [0, Math.max(steps, 1)], ticks: ticks(0, Math.max(steps, 1), narrow ? 5 : 8).filter(Number.isInteger).map((value) => ({ value, text: count(value) })) },
      { domain: [lowest, highest * 1.06], ticks: ticks(lowest, highest, 5).map((value) => ({ value, text: String(Number(value.toPrecision(3))) })) },
      said,
    );
    curves.forEach(({ begin, each, smooth }, index) => {
      const places = (points) => path(points.map(([step, loss]) => [at.x(step), at.y(loss)]));
      root.append(svg('path', { class: 'loss', d: places(each) }), svg('path', { class: 'mean', d: places(smooth) }));
      if (stages.length > 1) {
        root.append(
          svg('line', { class: 'boundary', x1: at.x(begin), x2: at.x(begin), y1: inner.top, y2: inner.bottom }),
          svg('text', { class: 'note', x: at.x(begin) + 4, y: inner.top - 8 }, `stage ${index + 1}`),
        );
      }
    });
    return root;
  });
}
