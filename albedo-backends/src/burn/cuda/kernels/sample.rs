//! From logits to a token, and to the log-probability of a given token.
//!
//! The rule is that of the CPU (`burn::sample::choose`). Every order is exact:
//! a candidate is a whole number that sorts by logit, then by id, and weights
//! are whole multiples of 2^-40, whose sums do not depend on their order.

use cubecl::prelude::*;

use super::math::exp;
use super::rows::NONE;

/// Units of a cube; one cube a row.
pub(in crate::burn::cuda) const UNITS: u32 = 1024;

/// Logits that a unit reads at once, where it looks for the largest.
const AHEAD: u32 = 8;

/// Bits of a candidate that hold its id, reversed.
pub(in crate::burn::cuda) const ID_BITS: u32 = 18;

/// A number that sorts as `logit` does, and among equals by id, descending.
#[cube]
fn candidate(logit: f32, id: u32) -> u64 {
    let bits = u32::reinterpret(logit + 0.0f32);
    let mut key = bits ^ 0x8000_0000u32;
    if bits >= 0x8000_0000u32 {
        key = bits ^ 0xffff_ffffu32;
    }
    (u64::cast_from(key) << 18u64) | u64::cast_from(comptime!((1u32 << ID_BITS) - 1) - id)
}

/// `exp((logit - top) / temperature)` in multiples of 2^-40.
#[cube]
fn weight(logit: f32, top: f32, inverse: f32) -> u64 {
    u64::cast_from(exp((logit - top) * inverse) * 1_099_511_627_776.0f32)
}

/// The sum of whole numbers over the cube, on every unit.
#[cube]
fn cube_total(value: u64, shared: &mut Shared<[u64]>) -> u64 {
    shared[UNIT_POS as usize] = value;
    sync_cube();
    let mut width = comptime!(UNITS / 2).runtime();
    while width > 0 {
        if UNIT_POS < width {
            shared[UNIT_POS as usize] = shared[UNIT_POS as usize] + shared[(UNIT_POS + width) as usize];
        }
        sync_cube();
        width /= 2;
    }
    let total = shared[0];
    sync_cube();
    total
}

/// The largest value over the cube, on every unit.
#[cube]
fn cube_max(value: f32, shared: &mut Shared<[f32]>) -> f32 {
    shared[UNIT_POS as usize] = value;
    sync_cube();
    let mut width = comptime!(UNITS / 2).runtime();
    while width > 0 {
        if UNIT_POS < width {
            shared[UNIT_POS as usize] = max(shared[UNIT_POS as usize], shared[(UNIT_POS + width) as usize]);
        }
        sync_cube();
        width /= 2;
    }
    let largest = shared[0];
    sync_cube();
    largest
}

/// The candidate at which the running sum of weights (or, where `counted`, of
/// ones) of the candidates from `bound` up, in descending order, reaches
/// `target`; `found[0]` becomes the candidate, `found[1]` the sum before it.
/// Five rounds of ten bits narrow it down.
#[cube]
fn reach(
    logits: &[f32],
    first: usize,
    vocabulary: u32,
    top: f32,
    inverse: f32,
    bound: u64,
    target: u64,
    counted: bool,
    bins: &Shared<[Atomic<u64>]>,
    sums: &mut Shared<[u64]>,
    found: &mut Shared<[u64]>,
) {
    if UNIT_POS == 0 {
        found[0] = 0u64;
        found[1] = 0u64;
    }
    sync_cube();
    #[unroll]
    for round in 0..5u64 {
        let shift = comptime!(40 - 10 * round);
        bins[UNIT_POS as usize].store(0u64);
        sync_cube();
        let prefix = found[0] >> comptime!(shift + 10);
        let mut id = UNIT_POS;
        while id < vocabulary {
            let logit = logits[first + id as usize];
            let number = candidate(logit, id);
            if number >= bound && (number >> comptime!(shift + 10)) == prefix {
                let mut amount = 1u64;
                if !counted {
                    amount = weight(logit, top, inverse);
                }
                let bin = ((number >> shift) & 1023u64) as usize;
                bins[bin].fetch_add(amount);
            }
            id += UNITS;
        }
        sync_cube();
        // Sums from the highest bin down: unit i has bin 1023 - i.
        let bin = 1023 - UNIT_POS;
        let own = bins[bin as usize].load();
        sums[UNIT_POS as usize] = own;
        sync_cube();
        let mut reach = 1u32.runtime();
        while reach < UNITS {
            let mut before = 0u64;
            if UNIT_POS >= reach {
                before = sums[(UNIT_POS - reach) as usize];
            }
            sync_cube();
            sums[UNIT_POS as usize] = sums[UNIT_POS as usize] + before;
            sync_cube();
            reach *= 2;
        }
        let above = found[1];
        let upto = above + sums[UNIT_POS as usize];
        let under = upto - own;
        sync_cube();
        if under < target && upto >= target {
            found[0] = found[0] | (u64::cast_from(bin) << shift);
            found[1] = under;
        }
        sync_cube();
    }
}

/// Chooses the next token of every row.
///
/// Row `r` belongs to slot `slots[r]`, whose settings are `temperatures`,
/// `top_ps`, `top_ks`, `seeds` (two words a slot) and whose reply has
/// `lengths` tokens so far; that is also the position in its random stream.
/// Writes the token to `tokens[slot]` and, with the row's fault, to
/// `chosen[2r]`, `chosen[2r + 1]`; a row with logits that are not finite gets
/// [`NONE`].
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn sample(
    logits: &[f32],
    slots: &[u32],
    faults: &[u32],
    temperatures: &[f32],
    top_ps: &[f32],
    top_ks: &[u32],
    seeds: &[u32],
    lengths: &mut [u32],
    tokens: &mut [u32],
    chosen: &mut [u32],
    vocabulary: u32,
) {
    let mut floats = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut sums = Shared::<[u64]>::new_slice(UNITS as usize);
    let mut found = Shared::<[u64]>::new_slice(2usize);
    let bins = Shared::<[Atomic<u64>]>::new_slice(1024usize);
    let row = CUBE_POS_X as usize;
    let slot = slots[row] as usize;
    let first = row * vocabulary as usize;

    let mut best = f32::min_value();
    let mut best_id = 0u32;
    let mut bad = 0u64;
    let mut from = UNIT_POS;
    while from < vocabulary {
        // Beyond the end, the last one again.
        let mut some = Array::<f32>::new(AHEAD as usize);
        #[unroll]
        for i in 0..AHEAD {
            let id = min(from + comptime!(i * UNITS), vocabulary - 1);
            some[i as usize] = logits[first + id as usize];
        }
        #[unroll]
        for i in 0..AHEAD {
            let logit = some[i as usize];
            if logit > best {
                best = logit;
                best_id = min(from + comptime!(i * UNITS), vocabulary - 1);
            }
            if logit - logit != 0.0f32 {
                bad = 1u64;
            }
        }
        from += comptime!(AHEAD * UNITS);
    }
    let top = cube_max(best, &mut floats);
    let mut token = NONE.runtime();
    let faulty = cube_total(bad, &mut sums);
    if faulty == 0 {
        let temperature = temperatures[slot];
        if temperature == 0.0f32 {
            // The lowest id among equals: ids are exact in f32 up to 2^24.
            let mut rank = f32::new(-16_777_216.0);
            if best == top {
                rank = -f32::cast_from(best_id);
            }
            token = u32::cast_from(-cube_max(rank, &mut floats));
        } else {
            let inverse = 1.0f32 / temperature;
            let mut bound = 0u64;
            let top_k = top_ks[slot];
            if top_k > 0 && top_k < vocabulary {
                reach(
                    logits,
                    first,
                    vocabulary,
                    top,
                    inverse,
                    bound,
                    u64::cast_from(top_k),
                    true,
                    &bins,
                    &mut sums,
                    &mut found,
                );
                bound = found[0];
                sync_cube();
            }
            let mut own = 0u64;
            let mut id = UNIT_POS;
            while id < vocabulary {
                let logit = logits[first + id as usize];
                if candidate(logit, id) >= bound {
                    own += weight(logit, top, inverse);
                }
                id += UNITS;
            }
            let mut kept = cube_total(own, &mut sums);
            let top_p = top_ps[slot];
            if top_p < 1.0f32 {
                let mut target = u64::cast_from(f64::cast_from(kept) * f64::cast_from(top_p));
                if target == 0 {
                    target = 1u64;
                }
                reach(
                    logits, first, vocabulary, top, inverse, bound, target, false, &bins, &mut sums,
                    &mut found,
                );
                bound = found[0];
                let above = found[1];
                sync_cube();
                let id = comptime!((1u32 << ID_BITS) - 1)
                    - u32::cast_from(bound & comptime!((1u64 << ID_BITS) - 1));
                kept = above + weight(logits[first + id as usize], top, inverse);
            }
            let unit = uniform(seeds[2 * slot], seeds[2 * slot + 1], lengths[slot]);
            let mut target = u64::cast_from(f64::cast_from(kept) * unit) + 1;
            if target > kept {
                target = kept;
            }
            reach(
                logits, first, vocabulary, top, inverse, bound, target, false, &bins, &mut sums, &mut found,
            );
            token = comptime!((1u32 << ID_BITS) - 1)
                - u32::cast_from(found[0] & comptime!((1u64 << ID_BITS) - 1));
        }
    }
    if UNIT_POS == 0 {
        tokens[slot] = token;
        lengths[slot] = lengths[slot] + 1;
        chosen[2 * row] = token;
        chosen[2 * row + 1] = faults[row];
        if token == NONE {
            tokens[slot] = 0u32;
        }
    }
}

/// A number in [0, 1) with 53 random bits: Philox4x32-10 at `position` of the
/// stream of a seed for tokens, as `albedo_core::rng::Stream::unit_at` has it.
#[cube]
fn uniform(low: u32, high: u32, position: u32) -> f64 {
    let mut key0 = low;
    let mut key1 = high;
    let mut x0 = position;
    let mut x1 = 0u32;
    let mut x2 = 1u32;
    let mut x3 = 0u32;
    for _ in 0..10u32 {
        let a = u64::cast_from(x0) * 0xD251_1F53u64;
        let b = u64::cast_from(x2) * 0xCD9E_8D57u64;
        let y0 = u32::cast_from(b >> 32u64) ^ x1 ^ key0;
        let y2 = u32::cast_from(a >> 32u64) ^ x3 ^ key1;
        x1 = u32::cast_from(b & 0xffff_ffffu64);
        x3 = u32::cast_from(a & 0xffff_ffffu64);
        x0 = y0;
        x2 = y2;
        key0 += 0x9E37_79B9u32;
        key1 += 0xBB67_AE85u32;
    }
    let bits = (u64::cast_from(x1) << 32u64) | u64::cast_from(x0);
    f64::cast_from(bits >> 11u64) * 1.110_223_024_625_156_5e-16f64
}

/// What the log-probability of `targets[row]` is made of: `out[2r]` the target's
/// logit less the largest, `out[2r + 1]` the sum of `exp(logit - largest)`. Rows
/// without a target are left alone.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn log_prob(logits: &[f32], targets: &[u32], out: &mut [f32], vocabulary: u32) {
    let mut floats = Shared::<[f32]>::new_slice(UNITS as usize);
    let row = CUBE_POS_X as usize;
    let target = targets[row];
    let first = row * vocabulary as usize;
    if target != NONE {
        let mut best = f32::min_value();
        let mut id = UNIT_POS;
        while id < vocabulary {
            best = max(best, logits[first + id as usize]);
            id += UNITS;
        }
        let top = cube_max(best, &mut floats);
        let mut own = 0.0f32;
        let mut id = UNIT_POS;
        while id < vocabulary {
            own += exp(logits[first + id as usize] - top);
            id += UNITS;
        }
        floats[UNIT_POS as usize] = own;
        sync_cube();
        let mut width = comptime!(UNITS / 2).runtime();
        while width > 0 {
            if UNIT_POS < width {
                floats[UNIT_POS as usize] = floats[UNIT_POS as usize] + floats[(UNIT_POS + width) as usize];
            }
            sync_cube();
            width /= 2;
        }
        if UNIT_POS == 0 {
            out[2 * row] = logits[first + target as usize] - top;
            out[2 * row + 1] = floats[0];
        }
    }
}
