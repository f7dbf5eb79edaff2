//! What a cube brings: the blocks of keys and values of its items, one after the other.

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;
use half::bf16;

use super::super::PAGE;
use super::{BLOCK, TILE_WORDS};

/// Places for blocks of keys, and as many for blocks of values.
pub(super) const PLACES: usize = 3;

/// Item number `round` of a cube. Items are sorted, the longest first, and every
/// other round is dealt backwards, so that the sums of what cubes get are alike.
#[cube]
pub(super) fn item(round: u32) -> u32 {
    let mut place = CUBE_POS_X;
    if round % 2 == 1 {
        place = CUBE_COUNT_X - 1 - place;
    }
    round * CUBE_COUNT_X + place
}

/// Waits for the block in `place`.
#[cube]
pub(super) fn landed(bars: &Sequence<Shared<Barrier>>, place: u32, parity: u32) {
    #[unroll]
    for i in 0..PLACES {
        if place == comptime!(i as u32) {
            bars.index(i).wait_parity(parity);
        }
    }
}

/// The place before `place`.
#[cube]
pub(super) fn before(place: u32) -> u32 {
    if place == 0 { u32::new(PLACES as i64 - 1) } else { place - 1 }
}

/// What a plane brings next: a page of every block, of keys or of values.
#[derive(CubeType)]
pub(super) struct Cursor {
    /// Items so far.
    round: RuntimeCell<u32>,
    /// Blocks of the item that are still to come; none after the last item.
    left: RuntimeCell<u32>,
    /// Where the page numbers of the item are from its next block on.
    pages: RuntimeCell<u32>,
    /// Where its last page number is.
    last: RuntimeCell<u32>,
    kv_head: RuntimeCell<u32>,
    /// The page of the next block.
    page: RuntimeCell<u32>,
}

/// Before the first item of the cube, which has one.
#[cube]
pub(super) fn start(
    tiles: &[u32],
    pages: &[u32],
    stride: u32,
    #[comptime] heads: u32,
    #[comptime] kv_heads: u32,
) -> Cursor {
    let cursor = Cursor {
        round: RuntimeCell::new(0u32),
        left: RuntimeCell::new(0u32),
        pages: RuntimeCell::new(0u32),
        last: RuntimeCell::new(0u32),
        kv_head: RuntimeCell::new(0u32),
        page: RuntimeCell::new(0u32),
    };
    next_item(&cursor, tiles, stride, heads, kv_heads);
    next_page(&cursor, pages);
    cursor
}

/// Moves `cursor` to its next item.
#[cube]
fn next_item(cursor: &Cursor, tiles: &[u32], stride: u32, #[comptime] heads: u32, #[comptime] kv_heads: u32) {
    let at = item(cursor.round.read());
    cursor.round.store(cursor.round.read() + 1);
    let tile = (at / heads) as usize * TILE_WORDS;
    if tile < tiles.len() {
        let seen = tiles[tile + 2] + tiles[tile + 1];
        let first = tiles[tile + 3] * stride;
        cursor.left.store((seen + comptime!(BLOCK as u32 - 1)) / BLOCK as u32);
        cursor.pages.store(first + UNIT_POS / 32 % 2);
        cursor.last.store(first + (seen - 1) / PAGE as u32);
        cursor.kv_head.store(at % heads / comptime!(heads / kv_heads));
    }
}

/// Reads the number of the next page. A block that has only one page gets it twice.
#[cube]
fn next_page(cursor: &Cursor, pages: &[u32]) {
    cursor.page.store(pages[min(cursor.pages.read(), cursor.last.read()) as usize]);
    cursor.pages.store(cursor.pages.read() + 2);
}

/// Has the copy engine bring the next block to `place`: each plane one of its two pages,
/// the first two planes of a warpgroup keys, the others values.
#[cube]
pub(super) fn bring(
    cursor: &Cursor,
    keys: &[bf16],
    values: &[bf16],
    tiles: &[u32],
    pages: &[u32],
    k_box: &mut Shared<[bf16]>,
    v_box: &mut Shared<[bf16]>,
    k_landed: &Sequence<Shared<Barrier>>,
    v_landed: &Sequence<Shared<Barrier>>,
    place: u32,
    stride: u32,
    #[comptime] heads: u32,
    #[comptime] kv_heads: u32,
    #[comptime] dim: usize,
) {
    let page = comptime!(PAGE * dim);
    let plane = UNIT_POS / 32 % 4;
    let left = cursor.left.read();
    if left > 0 {
        if UNIT_POS % 32 == 0 {
            let from = (cursor.page.read() * kv_heads + cursor.kv_head.read()) as usize * page;
            let to = (place * 2 + plane % 2) as usize * page;
            #[unroll]
            for i in 0..PLACES {
                if place == comptime!(i as u32) {
                    if plane < 2 {
                        let bar = k_landed.index(i);
                        bar.arrive_and_expect_tx(1u32, comptime!(2 * page as u32));
                        bar.memcpy_async_tx(&keys[from..from + page], &mut k_box[to..to + page]);
                    } else {
                        let bar = v_landed.index(i);
                        bar.arrive_and_expect_tx(1u32, comptime!(2 * page as u32));
                        bar.memcpy_async_tx(&values[from..from + page], &mut v_box[to..to + page]);
                    }
                }
            }
        }
        cursor.left.store(left - 1);
        if left == 1 {
            next_item(cursor, tiles, stride, heads, kv_heads);
        }
        if cursor.left.read() > 0 {
            next_page(cursor, pages);
        }
    }
}
