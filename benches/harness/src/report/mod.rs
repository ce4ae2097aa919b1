//! The reports: `results.json`, `report.md`, `report.html`.

mod charts;
mod format;
mod html;
mod markdown;
mod overview;
mod scale;

use crate::results::Results;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

pub use html::html;
pub use markdown::markdown;

/// Writes all of them into `dir`.
pub fn write(results: &Results, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let json = serde_json::to_string_pretty(results)? + "\n";
    for (name, text) in [("results.json", json), ("report.md", markdown(results)), ("report.html", html(results))] {
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
