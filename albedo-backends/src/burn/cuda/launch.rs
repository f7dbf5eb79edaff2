//! Launches of the kernels, but for products, with the checks that make them
//! sound: a kernel reads and writes its buffers only within the sizes that are
//! checked here.

use albedo_core::{Error, ErrorKind, Result};
use cubecl::ir::{ElemType, FloatKind, UIntKind};
use cubecl::prelude::CubeCount;
use half::bf16;

pub(super) use self::attention::{AttendRows, AttendTiles, WriteKv};
pub(super) use self::rows::AddNorm;
pub(super) use self::sample::SlotSettings;
use super::device::{Buffer, Gpu, Value};
use super::kernels::attention::PAGE;
use super::kernels::attention::decode::SPLIT;
use super::kernels::codes::page_words;

mod attention;
mod rows;
mod sample;

pub(super) const OPERATION: &str = "launch a kernel";

pub(super) const BF16: ElemType = ElemType::Float(FloatKind::BF16);
pub(super) const BYTE: ElemType = ElemType::UInt(UIntKind::U8);

/// Sizes of the attention of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heads {
    /// Query heads.
    pub(super) queries: usize,
    /// Key-value heads.
    pub(super) kv: usize,
    /// Values of a head: 32, 64 or 128.
    pub(super) dim: usize,
}

impl Heads {
    /// Whether there are kernels for these heads.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] with what is supported.
    pub(super) fn check(self) -> Result<()> {
        let group = self.queries / self.kv;
        if [32, 64, 128].contains(&self.dim) && (1..=8).contains(&group) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            OPERATION,
            format!("heads of {} values, {group} of them to a key-value head", self.dim),
        )
        .with_hint("the GPU runs heads of 32, 64 or 128 values, at most 8 to a key-value head"))
    }

    /// The factor of a score before `exp2`.
    fn scale(self) -> f32 {
        std::f32::consts::LOG2_E / (self.dim as f32).sqrt()
    }
}

/// Where the rows of a step are: each row's position in its sequence, its slot,
/// and the page table, `[slot, stride]`.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) positions: Buffer<u32>,
    pub(super) slots: Buffer<u32>,
    pub(super) pages: Buffer<u32>,
    pub(super) stride: usize,
}

/// What pages of keys and values hold: bf16, or words of int8 codes and their factors.
pub(super) trait Stored: Value {
    /// Whether these are codes.
    const CODES: bool;

    /// Values of a page of one head.
    fn page(dim: usize) -> usize;

    /// Words that hold eight keys or values.
    fn words() -> usize {
        if Self::CODES { 2 } else { 4 }
    }
}

impl Stored for bf16 {
    const CODES: bool = false;

    fn page(dim: usize) -> usize {
        PAGE * dim
    }
}

impl Stored for u32 {
    const CODES: bool = true;

    fn page(dim: usize) -> usize {
        page_words(dim)
    }
}

/// Keys and values of one layer, `[page, kv, Stored::page]` each.
#[derive(Debug, Clone)]
pub(super) struct Pool<T> {
    pub(super) keys: Buffer<T>,
    pub(super) values: Buffer<T>,
}

impl<T: Stored> Pool<T> {
    /// Memory for `pages` pages, of which the values are numbers.
    pub(super) fn new(gpu: &Gpu, pages: usize, heads: Heads) -> Result<Self> {
        let len = pages * heads.kv * T::page(heads.dim);
        let pool = Self { keys: gpu.empty(len), values: gpu.empty(len) };
        gpu.clear(&pool.values)?;
        Ok(pool)
    }
}

/// Checks that `buffer` has room for `len` values.
pub(super) fn require<T: Value>(name: &str, buffer: &Buffer<T>, len: usize) -> Result<()> {
    if buffer.len() >= len {
        return Ok(());
    }
    Err(Error::bug(OPERATION, format!("`{name}` has room for {} values, {len} are needed", buffer.len())))
}

/// Checks that `number` is a multiple of `of`.
pub(super) fn multiple(name: &str, number: usize, of: usize) -> Result<()> {
    if number.is_multiple_of(of) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, OPERATION, format!("{name} is {number}, not a multiple of {of}")))
}

/// `x` cubes in a row.
pub(super) fn cubes(x: usize) -> CubeCount {
    CubeCount::Static(x as u32, 1, 1)
}

/// Splits that a row at `position` needs.
pub(super) fn splits(position: usize) -> usize {
    position / SPLIT + 1
}
