//! Parse, set up logging, run, exit code; no logic.

use std::process::ExitCode;

fn main() -> ExitCode {
    imgdex::main()
}
