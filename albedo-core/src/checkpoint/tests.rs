use async_trait::async_trait;
use proptest::prelude::*;

use super::*;
use crate::error::Side;
use crate::files::memory::{MemoryFiles, safetensors};
use crate::safetensors::Dtype;

/// Collects what passes by.
#[derive(Debug, Default)]
struct Seen {
    /// What it asks for beforehand; does not look if `None`.
    wants: Option<Vec<(&'static str, u64, u64)>>,
    early: Vec<Vec<u8>>,
    /// Tensor, first element, bytes.
    segments: Vec<(String, u64, Vec<u8>)>,
    parameters: Option<Digest>,
    fails: bool,
}

impl Seen {
    fn all() -> Self {
        Self { wants: Some(Vec::new()), ..Self::default() }
    }
}

impl WeightVisitor for Seen {
    fn begin(&mut self, _: WeightsOf, model: &Outline) -> Result<Option<Vec<TensorSlice>>> {
        let slice = |(tensor, start, elements): &(&str, u64, u64)| model.slice(tensor, *start, *elements);
        self.wants.as_ref().map(|wants| wants.iter().map(slice).collect()).transpose()
    }

    fn prepare(&mut self, early: &[Vec<u8>]) -> Result<()> {
        self.early = early.to_vec();
        Ok(())
    }

    fn visit(&mut self, segment: &Segment<'_>) -> Result<()> {
        if self.fails {
            return Err(Error::new(ErrorKind::Unsupported, "look", "it is too much"));
        }
        self.segments.push((segment.name.into(), segment.start, segment.bytes.to_vec()));
        Ok(())
    }

    fn end(&mut self, parameters: Digest) -> Result<()> {
        self.parameters = Some(parameters);
        Ok(())
    }
}

async fn pass(files: &Arc<MemoryFiles>, visitors: Vec<Seen>) -> (Option<Digest>, Vec<Seat<Seen>>) {
    let cx = CallContext::new();
    let checkpoint = Checkpoint::open(Arc::clone(files) as Arc<dyn ModelFiles>, &cx).await.expect("opens");
    let seats = visitors.into_iter().map(|visitor| Ok(Box::new(visitor))).collect();
    checkpoint.pass(WeightsOf::King, seats, &|_| (), &cx).await.expect("read")
}

/// One weight file of tensors of these shapes and types.
fn model(tensors: &[(&str, Dtype, &[u64])]) -> (Arc<MemoryFiles>, Vec<u8>) {
    let (mut header, mut end) = (Vec::new(), 0);
    for (name, dtype, shape) in tensors {
        let size = shape.iter().product::<u64>() * dtype.bytes();
        let dtype = serde_json::to_value(dtype).expect("a name");
        header.push(format!(
            r#""{name}":{{"dtype":{dtype},"shape":{shape:?},"data_offsets":[{end},{}]}}"#,
            end + size
        ));
        end += size;
    }
    let data: Vec<u8> = (0..end).map(|at| (at % 251) as u8).collect();
    let file = safetensors(&format!("{{{}}}", header.join(",")), &data);
    (MemoryFiles::new([("model.safetensors", file)]), data)
}

#[tokio::test]
async fn every_byte_is_read_once_whatever_visitors_ask_for_beforehand() {
    let (files, data) = model(&[("b", Dtype::F32, &[3, 5]), ("a", Dtype::Bf16, &[1 << 20, 3])]);
    let all = Some(vec![("a", 0, 1000), ("b", 2, 3), ("a", 500, 1 << 20), ("b", 0, 15)]);
    let some = Some(vec![("a", 999, 3), ("a", 3_145_727, 1)]);
    let visitors = [all, some, None].map(|wants| Seen { wants, ..Seen::default() });
    let (digest, seats) = pass(&files, visitors.into()).await;

    let file = Digest::of(files.bytes("model.safetensors"));
    assert_eq!(digest, Some(Digest::of(format!("{file}  model.safetensors\n"))));
    assert!(files.reads("model.safetensors").iter().all(|&reads| reads == 1));
    let seats: Vec<_> = seats.into_iter().map(|seat| seat.expect("went well")).collect();
    for seen in &seats[..2] {
        assert_eq!(seen.segments.iter().flat_map(|(_, _, bytes)| bytes).copied().collect::<Vec<_>>(), data);
        assert_eq!(seen.parameters, digest);
    }
    assert!(seats[2].segments.is_empty() && seats[2].parameters.is_none());
    assert_eq!(seats[0].early[1], data[8..20]);
    assert_eq!(seats[1].early[1], data[data.len() - 2..]);
}

#[tokio::test]
async fn an_empty_tensor_may_have_any_other_dimensions() {
    let (files, _) = model(&[("empty", Dtype::Bf16, &[0, 1 << 32, 1 << 32]), ("full", Dtype::Bf16, &[2])]);
    let (_, seats) = pass(&files, vec![Seen::all()]).await;
    let seen = seats.into_iter().next().expect("one").expect("went well");
    assert_eq!(seen.segments.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["empty", "full"]);
}

#[tokio::test]
async fn small_tensors_share_a_block_and_rows_are_whole_unless_they_are_longer_than_one() {
    let long = BLOCK_BYTES / 2 + 7;
    let (files, _) = model(&[
        ("a", Dtype::F32, &[2]),
        ("none", Dtype::F32, &[0, 3]),
        ("rows", Dtype::Bf16, &[3, 1_000_000]),
        ("long", Dtype::Bf16, &[2, long]),
    ]);
    let (_, seats) = pass(&files, vec![Seen::all()]).await;
    let seen = seats.into_iter().next().expect("a seat").expect("went well");
    let segments: Vec<_> = seen
        .segments
        .iter()
        .map(|(name, start, bytes)| (name.as_str(), *start, bytes.len() as u64))
        .collect();
    assert_eq!(
        segments,
        [
            ("a", 0, 8),
            ("none", 0, 0),
            ("rows", 0, 4_000_000),
            ("rows", 2_000_000, 2_000_000),
            ("long", 0, BLOCK_BYTES),
            ("long", BLOCK_BYTES / 2, BLOCK_BYTES),
            ("long", BLOCK_BYTES, 28),
        ]
    );
}

#[tokio::test]
async fn a_visitor_that_fails_disturbs_no_other_and_without_visitors_nothing_is_read() {
    let files = MemoryFiles::of(&[1.0, 2.0]);
    let (_, none) = pass(&files, vec![Seen::default()]).await;
    assert!(none[0].is_ok());
    let reads = files.reads("model.safetensors");
    assert_eq!(reads[reads.len() - 8..], [0; 8]);

    let greedy = Seen { wants: Some(vec![("a", 1, 2)]), ..Seen::default() };
    let stranger = Seen { wants: Some(vec![("b", 0, 1)]), ..Seen::default() };
    let broken = Seen { fails: true, ..Seen::all() };
    let (digest, seats) = pass(&files, vec![greedy, Seen::all(), stranger, broken]).await;
    assert!(digest.is_some());
    let message = |seat: usize| seats[seat].as_ref().expect_err("refused").to_string();
    assert!(message(0).contains("shorter than its place") && message(2).contains("lack the tensor `b`"));
    assert!(message(3).contains("it is too much"));
    assert_eq!(seats[1].as_ref().expect("went well").segments.len(), 1);
}

#[tokio::test]
async fn what_visitors_ask_for_beforehand_is_bounded() {
    let (files, _) = model(&[("a", Dtype::Bf16, &[40 << 20])]);
    let greedy = Seen { wants: Some(vec![("a", 0, 40 << 20)]), ..Seen::default() };
    let (_, seats) = pass(&files, vec![greedy]).await;
    let error = seats[0].as_ref().expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// What somebody handed in.
#[derive(Debug)]
struct Published(Arc<MemoryFiles>);

#[async_trait]
impl ModelFiles for Published {
    fn provenance(&self) -> Provenance {
        Provenance::Published
    }

    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>> {
        self.0.list(cx).await
    }

    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        self.0.read(name, range, cx).await
    }
}

#[tokio::test]
async fn what_is_broken_is_ours_in_a_copy_and_its_authors_in_what_was_handed_in() {
    let cx = CallContext::new();
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let whole = safetensors(header, &[0; 4]);
    let mut broken = vec![(MemoryFiles::new([]), ErrorKind::NotFound)];
    for length in [0, 5, 8, 20, whole.len() - 1] {
        let files = MemoryFiles::new([("model.safetensors", whole[..length].to_vec())]);
        broken.push((files, ErrorKind::DataInvalid));
    }
    let twice = MemoryFiles::new([("a.safetensors", whole.clone()), ("b.safetensors", whole.clone())]);
    broken.push((twice, ErrorKind::DataInvalid));
    for (files, kind) in broken {
        let copy =
            Checkpoint::open(Arc::clone(&files) as Arc<dyn ModelFiles>, &cx).await.expect_err("refused");
        let copy = copy.charged_to(|_| Side::Challenger);
        assert_eq!(
            (copy.kind(), copy.fault(), copy.is_retryable()),
            (kind, Fault::Infrastructure, true),
            "{copy}"
        );
        let error = Checkpoint::open(Arc::new(Published(files)), &cx).await.expect_err("refused");
        let error = error.charged_to(|_| Side::Challenger);
        assert_eq!((error.kind(), error.fault()), (kind, Fault::Contestant(Side::Challenger)), "{error}");
    }

    // A visitor may ask for what no model has.
    let files = Published(MemoryFiles::new([("model.safetensors", whole)]));
    let checkpoint = Checkpoint::open(Arc::new(files), &cx).await.expect("opens");
    for (tensor, start) in [("b", 0), ("a", 1)] {
        let error = checkpoint.outline().slice(tensor, start, 1).expect_err("it is not there");
        assert_eq!(error.charged_to(|_| Side::Challenger).fault(), Fault::Infrastructure);
    }
}

#[tokio::test]
async fn a_cancelled_pass_stops() {
    let cx = CallContext::new();
    let files: Arc<dyn ModelFiles> = MemoryFiles::of(&[1.0]);
    let checkpoint = Checkpoint::open(files, &cx).await.expect("opens");
    cx.cancel();
    let seats: Vec<Seat<Seen>> = vec![Ok(Box::new(Seen::all()))];
    let error = checkpoint.pass(WeightsOf::King, seats, &|_| (), &cx).await.expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

proptest! {
    #[test]
    fn blocks_cover_a_file_in_order(shapes in proptest::collection::vec((0_u64..5, 1_u64..2_000_000), 0..6)) {
        let (mut tensors, mut end) = (Vec::new(), 64);
        for (index, (rows, columns)) in shapes.into_iter().enumerate() {
            let size = rows * columns * 2;
            let info = TensorInfo { dtype: Dtype::Bf16, shape: vec![rows, columns], range: end..end + size };
            tensors.push((index.to_string(), info));
            end += size;
        }
        let shard = Shard { name: "x".into(), bytes: end, tensors };
        let mut at = 0;
        let mut next = std::collections::BTreeMap::new();
        for block in blocks::of(&shard) {
            prop_assert_eq!(block.range.start, at);
            prop_assert!(at == 0 || block.range.end - at <= BLOCK_BYTES.max(4_000_000));
            let mut inside = 0;
            for piece in &block.pieces {
                prop_assert_eq!(piece.bytes.start, inside);
                inside = piece.bytes.end;
                let first = next.entry(piece.tensor).or_insert(0);
                prop_assert_eq!(piece.start, *first);
                *first += (piece.bytes.len() / 2) as u64;
            }
            prop_assert!(at == 0 || inside as u64 == block.range.end - at);
            at = block.range.end;
        }
        prop_assert_eq!(at, end);
    }
}
