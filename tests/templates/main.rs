//! The templates of `albedo new` as they are: they compile against this tree and
//! keep their roles' promises. `.ci/own-crates` makes crates of them.
#![expect(unreachable_pub, reason = "the templates are libraries of their own")]

#[path = "../../src/cli/new/backend.rs"]
mod backend;
#[path = "../../src/cli/new/judge.rs"]
mod judge;
#[path = "../../src/cli/new/screen.rs"]
mod screen;
