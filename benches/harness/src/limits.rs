//! The limit of open files: every connection is one, here and in the server.

use anyhow::{Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files that are not connections, here or in a server.
const BESIDES: u64 = 500;

/// Raises the soft limit to the hard one; the servers inherit it.
pub fn raise_open_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

/// Whether `connections` can be open at the same time.
pub fn check_open_files(connections: usize) -> Result<()> {
    allows(getrlimit(Resource::Nofile).current, connections as u64)
}

fn allows(limit: Option<u64>, connections: u64) -> Result<()> {
    let wanted = connections + BESIDES;
    let limit = limit.unwrap_or(u64::MAX);
    ensure!(
        limit >= wanted,
        "{connections} connections need {wanted} open files, and only {limit} are allowed. Raise the hard limit: \
         as root `ulimit -Hn {wanted}` in the shell that starts this, or `* hard nofile {wanted}` in \
         /etc/security/limits.conf and a new login. Or leave those cases out: --case '!*10000'."
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_is_told_with_what_to_do() {
        assert!(allows(Some(20_000), 10_100).is_ok());
        assert!(allows(None, 10_100).is_ok());
        let message = allows(Some(4096), 10_100).unwrap_err().to_string();
        for part in ["10100 connections", "4096", "ulimit -Hn 10600", "limits.conf"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
