//! Two weight files and an index, with a byte 255 between them: whatever they
//! are, the screen `files` comes to a finding of bounded size in bounded memory,
//! and to `Clear` only if the tensors are the king's two.
#![no_main]

use std::collections::BTreeMap;
use std::ops::Range;

use albedo_core::{CallContext, Error, ErrorKind, FileEntry, FilesScreen as _, Finding, ModelFiles, Provenance, Result};
use albedo_judges::screens::files::{FilesConfig, FilesScreen};
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

#[derive(Debug)]
struct Memory(BTreeMap<&'static str, Vec<u8>>, Provenance);

#[async_trait::async_trait]
impl ModelFiles for Memory {
    fn provenance(&self) -> Provenance {
        self.1
    }

    async fn list(&self, _: &CallContext) -> Result<Vec<FileEntry>> {
        let entry = |(name, bytes): (&&str, &Vec<u8>)| FileEntry::new(*name, bytes.len() as u64);
        Ok(self.0.iter().map(entry).collect())
    }

    async fn read(&self, name: &str, range: Range<u64>, _: &CallContext) -> Result<Vec<u8>> {
        let bytes = self.0.get(name).and_then(|bytes| bytes.get(range.start as usize..range.end as usize));
        bytes.map(<[u8]>::to_vec).ok_or_else(|| Error::new(ErrorKind::NotFound, "read", "no such range"))
    }
}

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const INDEX: &str = "model.safetensors.index.json";
const TEXT: [&str; 3] = ["config.json", "tokenizer.json", "tokenizer_config.json"];

fn files(parts: [&[u8]; 3], provenance: Provenance) -> Memory {
    let mut files: BTreeMap<_, _> = TEXT.map(|name| (name, b"{}".to_vec())).into();
    files.extend([SHARDS[0], SHARDS[1], INDEX].into_iter().zip(parts.map(<[u8]>::to_vec)));
    Memory(files, provenance)
}

fn shard(json: &str, data: usize) -> Vec<u8> {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.split(|&byte| byte == 0xFF);
    let parts: [&[u8]; 3] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    let first = shard(r#"{"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#, 12);
    let second = shard(r#"{"b":{"dtype":"F16","shape":[],"data_offsets":[0,2]}}"#, 2);
    let index = format!(r#"{{"weight_map":{{"a":"{}","b":"{}"}}}}"#, SHARDS[0], SHARDS[1]);
    let king = files([&first, &second, index.as_bytes()], Provenance::Published);
    let screen = FilesScreen::new(FilesConfig { max_size_ratio: 1e9, ..FilesConfig::default() }).unwrap();
    for provenance in [Provenance::Published, Provenance::Copy] {
        let submission = files(parts, provenance);
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let finding = block_on(screen.inspect(&submission, &king, &CallContext::new())).unwrap();
        assert!(MEMORY.peak_usage() - before <= 40 * bytes.len() + (256 << 10));
        let evidence = match &finding {
            Finding::Clear(evidence) => {
                assert_eq!(evidence["tensors"], 2);
                evidence
            }
            Finding::Rejected(evidence) => evidence,
            Finding::Unverified(evidence) => {
                assert_eq!(provenance, Provenance::Copy);
                evidence
            }
            Finding::Flagged(_) => unreachable!("`files` never flags"),
        };
        assert!(evidence.to_string().len() < 64 << 10);
    }
});
