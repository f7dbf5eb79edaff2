//! The distillation of the demo pack.

use std::path::Path;

use super::config::DistilConfig;
use crate::demo::Demo;
use crate::{Error, Result};

/// The file, whose relative paths are the demo pack's.
const CONFIG: &str = include_str!("demo.toml");

/// The demo's distillation: its king learns from its challenger, on training tasks of the
/// pack, and is judged on the others. `out` is its folder.
///
/// # Errors
/// The current folder is gone.
pub fn demo(demo: &Demo, out: &Path) -> Result<DistilConfig> {
    let config = DistilConfig::parse(CONFIG)?;
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|error| Error::io("set up the demo", path, error));
    let mut config = DistilConfig { folder: absolute(demo.folder())?, ..config };
    config.student.out = absolute(out)?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    #[test]
    fn the_demo_is_well_formed() {
        let config = DistilConfig::parse(CONFIG).expect("reads");
        config.check(&Registry::linked().expect("links")).expect("is in order");
    }
}
