//! Standard output, for the commands: [`print()`].

use std::io::{self, Write as _};

/// Prints bytes, at once. Whoever read them may have gone, as `head` does; that is no error.
///
/// # Errors
/// What else keeps them from being written, such as a full disk.
pub fn print(bytes: &[u8]) -> io::Result<()> {
    let mut output = io::stdout();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
