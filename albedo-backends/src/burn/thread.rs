//! The thread that loads a model on its device and runs it there.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use albedo_core::{CallContext, DeviceMemory, Error, Result};

use super::config::Qwen3Config;
use super::cpu::BurnOps;
#[cfg(feature = "cuda")]
use super::cuda;
use super::engine::Engine;
use super::model::Qwen3;
use super::requests::{Desk, Inbox};
use super::turns::Turn;
use super::weights::WeightFiles;
use super::{Device, LOAD, Placement};

/// What an engine is made of.
#[derive(Debug)]
pub(super) struct Loading {
    pub(super) placement: Placement,
    pub(super) config: Qwen3Config,
    /// `None` once they are not needed any more.
    pub(super) files: Option<Arc<WeightFiles>>,
    pub(super) desk: Desk,
}

/// A device, and what a session takes of it.
enum Place {
    Cpu,
    #[cfg(feature = "cuda")]
    Gpu(cuda::Place),
}

/// A model on its device.
enum OnDevice {
    Cpu(Box<Engine>),
    #[cfg(feature = "cuda")]
    Gpu(Box<cuda::Loaded>),
}

impl Loading {
    /// Finds the device, and divides its memory.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "the CPU is not divided"))]
    fn place(&self, turn: Option<&Turn>) -> Result<Place> {
        match self.placement.device {
            Device::Cpu => Ok(Place::Cpu),
            #[cfg(feature = "cuda")]
            Device::Cuda(index) => {
                cuda::Place::new(index, &self.placement, &self.config, turn.map(Turn::others)).map(Place::Gpu)
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(index) => Err(Error::bug(LOAD, format!("GPU {index} in a build without GPUs"))),
        }
    }

    fn load(&self, place: &Place, first: bool, cx: &CallContext) -> Result<OnDevice> {
        let files = self.files.as_ref().ok_or_else(|| Error::bug(LOAD, "its files were let go"))?;
        if !first {
            files.require_unchanged()?;
        }
        let (config, weights) = (&self.config, files.weights(cx)?);
        match place {
            Place::Cpu => {
                let ops = BurnOps::new(config, burn::tensor::Device::flex());
                let model = Qwen3::load(ops, config, weights)?;
                let engine = Engine { model, desk: self.desk.clone(), max_batch: self.placement.max_batch };
                Ok(OnDevice::Cpu(Box::new(engine)))
            }
            #[cfg(feature = "cuda")]
            Place::Gpu(place) => Ok(OnDevice::Gpu(Box::new(cuda::Loaded::new(place, config, weights)?))),
        }
    }
}

impl Place {
    /// Whether a model stays there when another has its turn.
    fn is_kept(&self) -> bool {
        match self {
            Self::Cpu => false,
            #[cfg(feature = "cuda")]
            Self::Gpu(place) => place.plan().stays,
        }
    }

    /// How its memory is divided, where that is planned.
    fn memory(&self) -> Option<DeviceMemory> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "cuda")]
            Self::Gpu(place) => Some(place.plan().memory()),
        }
    }
}

impl OnDevice {
    /// Serves calls, once it could say so by `opened`, until the device is to be left.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(clippy::unnecessary_wraps, unused_variables, reason = "a GPU fails")
    )]
    fn serve(&mut self, desk: &Desk, inbox: &mut Inbox, opened: impl FnOnce()) -> Result<()> {
        match self {
            Self::Cpu(engine) => {
                opened();
                engine.run(inbox);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Gpu(model) => model.serve(desk, inbox, opened),
        }
    }
}

/// What loads and runs a model.
struct DeviceThread {
    loading: Loading,
    inbox: Inbox,
    turn: Option<Turn>,
    /// The caller that waits for the first load, and until when.
    first: Option<(std::sync::mpsc::Sender<Loaded>, CallContext)>,
}

/// What a load came to: how the memory is divided.
pub(super) type Loaded = Result<Option<DeviceMemory>>;

impl DeviceThread {
    fn run(mut self) {
        let mut model = None;
        loop {
            match self.take_turn(&mut model).map_err(|error| error.with("model", &self.loading.desk.name)) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => match self.first.take() {
                    // Fails only if the load is not waited for any more.
                    Some((first, _)) => return drop(first.send(Err(error))),
                    None => self.inbox.refuse(&error),
                },
            }
            if !self.inbox.sleep() {
                return;
            }
        }
    }

    /// One turn of the device; `false` if the session is dropped.
    fn take_turn(&mut self, model: &mut Option<OnDevice>) -> Result<bool> {
        let place = self.loading.place(self.turn.as_ref())?;
        let turn = self.turn.clone();
        let stays = turn.is_none() || place.is_kept();
        // A model that stays is loaded while another may have its turn.
        if turn.is_some() && stays && model.is_none() {
            *model = Some(self.load(&place)?);
            tell(&mut self.first, &place);
            if !self.inbox.sleep() {
                return Ok(false);
            }
        }
        let desk = self.loading.desk.clone();
        let first = self.first.as_ref().map(|(_, cx)| cx.clone());
        let unwanted = || desk.is_closed() || first.as_ref().is_some_and(|cx| cx.check(LOAD).is_err());
        let holding = turn.as_ref().map(|turn| turn.take(unwanted));
        if holding.as_ref().is_some_and(Option::is_none) {
            return Ok(false);
        }
        let mut here = match model.take() {
            Some(here) => here,
            None => self.load(&place)?,
        };
        if stays {
            self.loading.files = None;
        }
        let served = here.serve(&desk, &mut self.inbox, || tell(&mut self.first, &place));
        if stays {
            *model = Some(here);
        }
        served.map(|()| true)
    }

    fn load(&self, place: &Place) -> Result<OnDevice> {
        let session = &self.loading.desk.session;
        let cx = self.first.as_ref().map_or(session, |(_, cx)| cx);
        self.loading.load(place, self.first.is_some(), cx)
    }
}

/// Reports to the caller that waits for the first load.
fn tell(first: &mut Option<(std::sync::mpsc::Sender<Loaded>, CallContext)>, place: &Place) {
    if let Some((first, _)) = first.take() {
        // Fails only if the load is not waited for any more.
        let _ = first.send(Ok(place.memory()));
    }
}

/// A device thread that loads its model.
pub(super) struct Starting {
    pub(super) thread: JoinHandle<()>,
    pub(super) loaded: std::sync::mpsc::Receiver<Loaded>,
}

/// Starts a device thread, on which the model is also loaded.
pub(super) fn start(loading: Loading, inbox: Inbox, cx: &CallContext) -> Result<Starting> {
    let (first, loaded) = std::sync::mpsc::channel();
    let turn = inbox.turn().cloned();
    let thread = DeviceThread { loading, inbox, turn, first: Some((first, cx.clone())) };
    let thread = std::thread::Builder::new()
        .name("albedo-device".to_owned())
        .spawn(|| thread.run())
        .map_err(|error| Error::io("start the device thread", Path::new("albedo-device"), error))?;
    Ok(Starting { thread, loaded })
}
