//! The user's terminal: its size, and raw mode while a command runs in a terminal of its own. Raw mode ends whenever
//! the guard is dropped. `client`, `commands` and `kubectl_shim` use it.

use std::io;

use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::protocol::request::Size;

/// Message of kubectl exec if a terminal is asked for and standard input is none (kubectl 1.34, exec.go).
pub(crate) const UNUSABLE: &str = "Unable to use a TTY - input is not a terminal or the right kind of file";

/// Returns whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    isatty(stdin())
}

/// Returns the size of the terminal on standard input; 24 by 80 if it is no terminal.
pub(crate) fn size() -> Size {
    match tcgetwinsize(stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => Size {
            rows: size.ws_row,
            cols: size.ws_col,
        },
        _ => Size { rows: 24, cols: 80 },
    }
}

/// Guard of raw mode: every key goes to the command until the guard is dropped.
pub(crate) struct RawMode(Termios);

impl std::fmt::Debug for RawMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawMode").finish_non_exhaustive()
    }
}

impl RawMode {
    /// Enters raw mode; `None` if standard input is no terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        if !stdin_is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.0);
    }
}
