//! The program on a terminal, interrupted while it waits for an answer.

use std::process::Command;

/// A program of Python's that runs a command on a terminal of its own, types Ctrl-C once it shows
/// the first argument, and once more if it goes on; ends as the command did, and prints what
/// the terminal has shown. Kills a command that takes a minute: it waits for something else.
const TERMINAL: &str = r#"
import os, pty, signal, sys

prompt, command = sys.argv[1].encode(), sys.argv[2:]
child, terminal = pty.fork()
if child == 0:
    os.execvp(command[0], command)
signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
signal.alarm(60)
shown, interrupts = b"", 0
while True:
    try:
        piece = os.read(terminal, 65536)
    except OSError:
        break
    if not piece:
        break
    shown += piece
    if (interrupts == 0 and prompt in shown) or (interrupts == 1 and b"stopping" in shown):
        interrupts += 1
        try:
            os.write(terminal, b"\x03")
        except OSError:
            pass
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
signal.alarm(0)
sys.stdout.buffer.write(shown)
sys.stdout.flush()
sys.exit(status)
"#;

/// Runs `program` on a terminal and interrupts it at `prompt`; its exit code, and what the
/// terminal has shown. Skips, with a line and nothing, where there is no Python.
#[expect(clippy::print_stdout, reason = "says what is skipped")]
pub(crate) fn interrupted_at(program: &Command, prompt: &str) -> Option<(Option<i32>, String)> {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: there is no python3");
        return None;
    }
    let mut python = Command::new("python3");
    python.args(["-c", TERMINAL, prompt]).arg(program.get_program()).args(program.get_args());
    if let Some(folder) = program.get_current_dir() {
        python.current_dir(folder);
    }
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => python.env(name, value),
            None => python.env_remove(name),
        };
    }
    let ended = python.output().expect("python starts");
    let shown = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(shown.contains(prompt), "{prompt}: {shown}{}", String::from_utf8_lossy(&ended.stderr));
    Some((ended.status.code(), shown))
}
