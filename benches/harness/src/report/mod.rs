//! The reports: `results.json`, `report.md`, `report.html`, and `summary.svg` where there is something to compare.

mod charts;
mod format;
mod html;
mod markdown;
mod overview;
mod scale;
mod summary;

use crate::results::Results;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

pub use html::html;
pub use markdown::markdown;
pub use summary::summary;

/// Writes all of them into `dir`.
pub fn write(results: &Results, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let json = serde_json::to_string_pretty(results)? + "\n";
    let files = [("results.json", json), ("report.md", markdown(results)), ("report.html", html(results))];
    for (name, text) in files.into_iter().chain(summary(results).map(|chart| ("summary.svg", chart))) {
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
