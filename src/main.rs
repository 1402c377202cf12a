//! The binary `candlemark`.

fn main() -> std::process::ExitCode {
    candlemark::cli::main()
}
