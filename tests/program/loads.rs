//! Loading a model and dropping it, again and again, in one process: its memory
//! does not grow.
//!
//! `ALBEDO_LOADS` sets the number of loads, 12 unless it is set.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::Command;

use albedo::prelude::*;
use albedo::{GenerateRequest, Message, MessageRole};
use futures::StreamExt;

use crate::run::demo;

/// Loads before the first measurement: pools and arenas reach their size.
const WARM_UP: u32 = 4;

/// The most that memory may grow from then on, in MB: two of the demo's models
/// in f32, however many are loaded. Source: chosen by albedo.
const GROWTH: f64 = 27.0;

/// Resident memory of this process in MB.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("reads");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    let kilobytes = line.split_whitespace().next().and_then(|number| number.parse::<f64>().ok());
    kilobytes.expect("a number") / 1e3
}

/// Loads the king, has one short reply, and drops it.
async fn load(backend: &dyn ModelBackend, cx: &CallContext) {
    let session = backend.load(&ModelSource::new(demo().join("models/king")), cx).await.expect("loads");
    let request = GenerateRequest::new(vec![Message::new(MessageRole::User, "a")], 2);
    let answers: Vec<_> = session.generate(vec![request], cx).collect().await;
    assert!(answers.iter().all(|answer| answer.result.is_ok()));
}

#[tokio::test]
#[ignore = "the other test starts it in a process of its own"]
async fn the_process_that_loads() {
    let loads = std::env::var("ALBEDO_LOADS").map_or(12, |loads| loads.parse().expect("a number"));
    let cx = CallContext::new();
    let registry = Registry::linked().expect("plugins");
    let backend =
        registry.build::<dyn ModelBackend>("burn", serde_json::json!({}), &cx).await.expect("builds");
    for _ in 0..WARM_UP {
        load(&*backend, &cx).await;
    }
    let before = resident();
    for _ in 0..loads {
        load(&*backend, &cx).await;
    }
    let after = resident();
    println!("{loads} loads: {before:.1} MB before, {after:.1} MB after");
    assert!(after - before < GROWTH, "{loads} loads: {before:.1} MB before, {after:.1} MB after");
}

#[test]
fn loading_again_and_again_keeps_memory_flat() {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "--nocapture", "loads::the_process_that_loads"])
        .output()
        .expect("starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let line = text.lines().find(|line| line.contains(" loads: ")).expect("the measurement");
    println!("{line}");
}
