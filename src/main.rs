//! The `albedo` program.
fn main() -> std::process::ExitCode {
    albedo::cli::main()
}
