use std::fs;

use super::*;
use crate::screens::testing::{demo_king, safetensors};

/// Collects what passes by.
#[derive(Default)]
struct Seen(Vec<(String, u64, usize)>);

impl Visitor for Seen {
    fn visit(&mut self, segment: Segment<'_>) -> Result<()> {
        self.0.push((segment.name.to_owned(), segment.start, segment.bytes.len()));
        Ok(())
    }
}

fn fault(folder: &Path) -> Error {
    Checkpoint::open(folder).expect_err("refused")
}

#[test]
fn a_pass_sees_every_byte_once_and_digests_as_the_backend_does() {
    let checkpoint = Checkpoint::open(&demo_king()).expect("opens");
    let (mut seen, told) = (Seen::default(), std::sync::atomic::AtomicU64::new(0));
    let progress = |bytes| {
        told.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    };
    let digest = checkpoint.pass(&mut seen, true, &progress, &CallContext::new()).expect("read");
    assert_eq!(told.into_inner(), checkpoint.bytes());
    let data: u64 = checkpoint.tensors().map(|(_, info)| info.range.end - info.range.start).sum();
    assert_eq!(seen.0.iter().map(|(_, _, bytes)| *bytes as u64).sum::<u64>(), data);
    let file = Digest::of(fs::read(demo_king().join("model.safetensors")).expect("reads"));
    assert_eq!(digest, Some(Digest::of(format!("{file}  model.safetensors\n"))));
}

#[test]
fn an_empty_tensor_is_seen_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let header = r#"{"none":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]}}"#;
    fs::write(folder.path().join("model.safetensors"), safetensors(header, 0)).expect("written");
    let checkpoint = Checkpoint::open(folder.path()).expect("opens");
    let mut seen = Seen::default();
    checkpoint.pass(&mut seen, true, &|_| (), &CallContext::new()).expect("read");
    assert_eq!(seen.0, [("none".to_owned(), 0, 0)]);
}

#[test]
fn a_broken_copy_is_ours_and_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(fault(folder.path()).kind(), ErrorKind::NotFound);
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(demo_king().join("model.safetensors")).expect("reads");
    fs::write(&path, &whole[..whole.len() / 2]).expect("written");
    let error = fault(folder.path());
    assert_eq!((error.kind(), error.fault()), (ErrorKind::DataInvalid, Fault::Infrastructure));
    assert!(error.is_retryable());
    assert!(
        error.to_string().contains("the header promises") && error.to_string().contains("fetch"),
        "{error}"
    );

    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    for name in ["model.safetensors", "other.safetensors"] {
        fs::write(folder.path().join(name), safetensors(header, 4)).expect("written");
    }
    assert!(fault(folder.path()).to_string().contains("two files hold the same tensor"));
    fs::create_dir(folder.path().join("x.safetensors")).expect("made");
    assert!(fault(folder.path()).to_string().contains("no regular file"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().expect("a folder");
    let name = std::ffi::OsStr::from_bytes(b"\xff.safetensors");
    fs::write(folder.path().join(name), b"").expect("written");
    assert!(fault(folder.path()).to_string().contains("not UTF-8"));
}

#[test]
fn a_cancelled_pass_stops() {
    let checkpoint = Checkpoint::open(&demo_king()).expect("opens");
    let cx = CallContext::new();
    cx.cancel();
    let error = checkpoint.pass(&mut Seen::default(), true, &|_| (), &cx).expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[test]
fn values_are_read_whatever_their_type() {
    let mut values = [0.0; 2];
    for (dtype, bytes) in [
        (Dtype::Bf16, vec![0x80, 0x3F, 0x00, 0xC0]),
        (Dtype::F16, vec![0x00, 0x3C, 0x00, 0xC0]),
        (Dtype::F32, [1.0_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat()),
        (Dtype::F64, [1.0_f64.to_le_bytes(), (-2.0_f64).to_le_bytes()].concat()),
    ] {
        to_f32(dtype, &bytes, &mut values).expect("a float");
        assert_eq!(values, [1.0, -2.0], "{dtype:?}");
    }
    assert_eq!(to_f32(Dtype::I8, &[1], &mut values).expect_err("no float").kind(), ErrorKind::Unsupported);
}
