//! Screens with their settings under a name that has a version.

use serde_json::{Value, json};

use crate::{Error, ErrorKind, PluginConfig, Result, Screen};

/// The profile of an admission that names none. An admission keeps its name, and the digest
/// of what the screens were; a threshold that is changed makes a new profile.
pub const SCREEN_PROFILE: &str = "sn97-2026-12";

/// The screens of the profile `name`, in order, with every threshold that a finding depends
/// on.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`] for a name that this build does not know.
pub fn screen_profile(name: &str) -> Result<Vec<PluginConfig<dyn Screen>>> {
    if name == SCREEN_PROFILE {
        return Ok(sn97_2026_12());
    }
    let message = format!("there is no screen profile `{name}`");
    Err(Error::new(ErrorKind::ConfigInvalid, "choose the screens", message)
        .with("key", "screen_profile")
        .with_hint(format!(
            "this build knows `{SCREEN_PROFILE}`; or name the screens one by one in `[[screens]]`"
        )))
}

fn sn97_2026_12() -> Vec<PluginConfig<dyn Screen>> {
    let screens: [(&str, &[(&str, Value)]); 10] = [
        ("files", &[("max_size_ratio", json!(2.0))]),
        ("architecture", &[]),
        ("digest", &[("equal", json!(0.9))]),
        ("fingerprint-v2", &[]),
        (
            "lineage",
            &[
                ("noise", json!(1.05)),
                ("noise_from", json!(0.95)),
                ("copied", json!(0.85)),
                ("alike", json!(0.5)),
            ],
        ),
        (
            "functional",
            &[
                ("probes", json!(24)),
                ("max_new_tokens", json!(96)),
                ("sets", json!(4)),
                ("same", json!(5e-5)),
                ("near", json!(3e-4)),
                ("copied", json!(0.9)),
                ("alike", json!(0.7)),
            ],
        ),
        ("sanity", &[("probes", json!(16)), ("max_new_tokens", json!(512)), ("share", json!(0.25))]),
        ("loops", &[]),
        ("tail", &[("decline", json!(0.3))]),
        ("injection", &[]),
    ];
    let with = |(name, settings): (&str, &[(&str, Value)])| {
        settings
            .iter()
            .fold(PluginConfig::named(name), |screen, (key, value)| screen.with(*key, value.clone()))
    };
    screens.into_iter().map(with).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_is_refused_with_the_known_one() {
        let error = screen_profile("sn97-2027-01").expect_err("unknown").to_string();
        assert!(error.contains("there is no screen profile") && error.contains("screen_profile"), "{error}");
    }
}
