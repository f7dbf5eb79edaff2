//! Screens of behaviour, and what a store of submissions remembers of a model, where the
//! model is.
//!
//! A client names screens and their settings. None may name a file, a server or another
//! plugin: settings are numbers and words of yes or no, and only screens of the behaviour
//! stage run, which ask the model and nobody else. Earlier submissions stay with the
//! caller, who has the store: the server sends digest, fingerprint and sketch.

use std::sync::Arc;

use serde_json::Value;

use crate::backends::files::FolderFiles;
use crate::backends::serve::protocol::{Measure, MeasuredModel, ScreenJob};
use crate::judges::screens::{AlignTo, Measurement};
use crate::server::Models;
use crate::{
    Artefact, BuildContext, CallContext, Digest, Error, ErrorKind, Fault, ModelSession, PluginConfig,
    Registry, Result, Screen, ScreenPart, ScreenStage, Screened,
};

const SCREEN: &str = "screen a model";
const MEASURE: &str = "measure a model";

/// What the screens of `job` find in the model behind `session`.
///
/// # Errors
/// A screen that is not known, or that a server does not run; what could not be found
/// out.
pub(super) async fn screen(
    job: &ScreenJob,
    session: &Arc<dyn ModelSession>,
    cx: &CallContext,
) -> Result<Vec<Screened>> {
    let registry = Registry::linked()?;
    let build = BuildContext::new(&registry, cx);
    let mut findings = Vec::with_capacity(job.screens.len());
    for (place, config) in job.screens.iter().enumerate() {
        check(config).map_err(|error| error.with("key", format!("screens[{place}]")))?;
        let built: Arc<dyn Screen> = build.build(config.name(), config.settings()).await?;
        let ScreenPart::Behaviour(part) = built.part() else {
            return Err(refused("the screen is not one of the behaviour stage").with("screen", config.name()));
        };
        let finding = part.inspect(&**session, job.seed, cx).await?;
        findings.push(Screened { screen: built.identity().clone(), stage: ScreenStage::Behaviour, finding });
    }
    Ok(findings)
}

/// Digest, fingerprint and, where there is an anchor, sketch of the model of `parameters`.
///
/// # Errors
/// The model's: weights that cannot be read, are not finite or cannot be aligned.
pub(super) async fn measure(
    models: &Models,
    parameters: Digest,
    asked: Measure,
    cx: &CallContext,
) -> Result<MeasuredModel> {
    let take = async |parameters: Digest, align: AlignTo| {
        let files = FolderFiles::new(models.folder(parameters)?);
        Measurement::take(Arc::new(files), align, cx).await
    };
    let align = match asked.anchor {
        None => AlignTo::Nothing,
        Some(anchor) if anchor == parameters => AlignTo::Itself,
        Some(anchor) => {
            let anchor = take(anchor, AlignTo::Itself).await?.anchor;
            AlignTo::Anchor(anchor.ok_or_else(|| Error::bug(MEASURE, "an anchor became none"))?)
        }
    };
    let measured = take(parameters, align).await?;
    let sketch = measured.aligned.as_ref().map(|aligned| &aligned.sketch);
    if let Some(tensor) = sketch.and_then(|sketch| sketch.not_finite()) {
        return Err(Error::new(ErrorKind::DataInvalid, MEASURE, "a weight is not finite")
            .about(Artefact::Model)
            .with("tensor", tensor));
    }
    let json = |error: serde_json::Error| Error::bug(MEASURE, error.to_string());
    Ok(MeasuredModel {
        parameters: measured.digests.parameters,
        fingerprint: serde_json::to_value(&measured.fingerprint).map_err(json)?,
        sketch: sketch.map(serde_json::to_value).transpose().map_err(json)?,
    })
}

/// # Errors
/// [`ErrorKind::Unsupported`]: a setting could name something outside.
fn check(config: &PluginConfig<dyn Screen>) -> Result<()> {
    let harmless = |value: &Value| matches!(value, Value::Null | Value::Bool(_) | Value::Number(_));
    match config.settings().iter().find(|(_, value)| !harmless(value)) {
        None => Ok(()),
        Some((key, _)) => {
            Err(refused("a setting could name a file, a server or another plugin").with("setting", key))
        }
    }
}

fn refused(message: &str) -> Error {
    Error::new(ErrorKind::Unsupported, SCREEN, message)
        .with_fault(Fault::Operator)
        .with_hint("run the screen beside the server, with the backend `serve`")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_client_names_nothing_outside() {
        let config = |settings: Value| {
            let mut table = settings.as_object().cloned().unwrap_or_default();
            table.insert("name".into(), "loops".into());
            serde_json::from_value::<PluginConfig<dyn Screen>>(Value::Object(table)).expect("reads")
        };
        check(&config(json!({ "replies": 3, "strict": true }))).expect("numbers");
        for settings in [
            json!({ "store": "/etc/passwd" }),
            json!({ "command": ["sh", "-c", "true"] }),
            json!({ "judges": [{ "name": "chat", "backend": {} }] }),
            json!({ "backend": { "name": "openai", "base_url": "http://10.0.0.1" } }),
        ] {
            let error = check(&config(settings)).expect_err("refused");
            assert_eq!((error.kind(), error.fault()), (ErrorKind::Unsupported, Fault::Operator));
        }
    }
}
