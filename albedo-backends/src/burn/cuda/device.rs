//! One GPU: its memory and its queue.

use std::cell::Cell;
use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, mpsc};
use std::task::{Context, Poll, Waker};

use albedo_core::{Error, ErrorKind, Reach, Result, Retry};
use cubecl::bytes::Bytes;
use cubecl::client::{Client, Graph};
use cubecl::config::RuntimeConfig;
use cubecl::device::CudaDevice;
use cubecl::execution::{StreamMode, StreamModeOverride};
use cubecl::ir::features::Tma;
use cubecl::prelude::BufferArg;
use cubecl::server::{Handle, IoError, LaunchError, ServerError};
use cubecl::{CubeElement, Device};
use cubek::std::config::{CubekConfig, MatmulConfig};
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{CUstreamCaptureMode, cuThreadExchangeStreamCaptureMode};

/// Values that are zeroed at a time.
const ZEROS: usize = 32 << 20;

/// Held to write while a session captures a graph on a GPU, and to read while one works
/// there: memory that is taken meanwhile ends the capture. One for each GPU.
static CAPTURING: [RwLock<()>; 64] = [const { RwLock::new(()) }; 64];

/// Held to write while anything is captured, and to read while kernels are compiled, which
/// many threads do, for any GPU.
static COMPILING: RwLock<()> = RwLock::new(());

/// A value that a buffer holds.
pub(super) trait Value: CubeElement + Debug + Copy {}
impl Value for f32 {}
impl Value for u32 {}
impl Value for half::bf16 {}

/// Memory on the device for `len` values.
#[derive(Clone)]
pub(super) struct Buffer<T> {
    handle: Handle,
    len: usize,
    value: PhantomData<T>,
}

impl<T> Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer<{}>[{}]", std::any::type_name::<T>(), self.len)
    }
}

impl<T: Value> Buffer<T> {
    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The memory, for a library's launch.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The buffer as a kernel's argument, in vectors of `vector` values.
    pub(super) fn arg(&self, vector: usize) -> BufferArg {
        // SAFETY: the buffer was allocated with room for `len` values.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.len / vector) }
    }

    /// The buffer's bytes as a kernel's argument, in vectors of `vector` values of `U`.
    pub(super) fn arg_of<U>(&self, vector: usize) -> BufferArg {
        let len = self.len * size_of::<T>() / size_of::<U>() / vector;
        // SAFETY: so many fit into the bytes that were allocated.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), len) }
    }

    /// The first `len` values.
    ///
    /// # Panics
    /// If the buffer holds fewer.
    pub(super) fn first(&self, len: usize) -> Self {
        self.range(0, len)
    }

    /// The value at `index`, for writing.
    pub(super) fn at(&self, index: usize) -> Self {
        self.range(index, 1)
    }

    /// The values from `from` on, `len` of them, for writing.
    ///
    /// # Panics
    /// If the buffer holds fewer.
    pub(super) fn range(&self, from: usize, len: usize) -> Self {
        let after = values_after(self.len, from, len);
        let handle = self.handle.clone().offset_start((from * size_of::<T>()) as u64);
        let handle = handle.offset_end((after * size_of::<T>()) as u64);
        Self { handle, len, value: PhantomData }
    }
}

/// How many of a buffer's `of` values follow `len` values from `from` on.
///
/// # Panics
/// If the buffer holds fewer: every launch trusts the length of a view, so that
/// a wrong one must not exist.
fn values_after(of: usize, from: usize, len: usize) -> usize {
    assert!(from <= of && len <= of - from, "a view of {len} values from {from} on, of {of}");
    of - from - len
}

/// A GPU and the stream that everything of a session goes through.
#[derive(Clone)]
pub(super) struct Gpu {
    client: Client,
    index: u32,
}

impl Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gpu")
    }
}

impl Gpu {
    /// The GPU with `index`.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if there is no driver, no such GPU, or one that is
    /// older than Hopper.
    pub(super) fn open(index: u32) -> Result<Self> {
        const OPERATION: &str = "open the GPU";
        // CubeCL reports a GPU that is not there by a panic of another thread.
        let gpus = Device::enumerate_all().iter().filter(|device| matches!(device, Device::Cuda(_))).count();
        if index as usize >= gpus {
            let message = match gpus {
                0 => "the NVIDIA driver is missing or sees no GPU".to_owned(),
                1 => format!("there is no GPU {index}: the one that the driver sees is 0"),
                _ => format!("there is no GPU {index}: the driver sees {gpus}, from 0 on"),
            };
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, message).with_hint(
                "`nvidia-smi` lists the GPUs; the driver must be 580 or newer; `device = \"cpu\"` runs without",
            ));
        }
        // The numbers are pinned, whatever a configuration file in the working
        // folder says; false means that they are already.
        let exact = CubekConfig { matmul: MatmulConfig { allow_tf32: false } };
        let _ = CubekConfig::try_set(exact);
        let opened = std::panic::catch_unwind(|| Device::Cuda(CudaDevice::new(index as usize)).client());
        let client = opened.map_err(|panic| {
            Error::new(ErrorKind::Unavailable, OPERATION, format!("GPU {index}: {}", panic_message(&*panic)))
                .with_hint(
                    "an NVIDIA GPU and its driver (580 or newer) are needed; `device = \"cpu\"` runs without",
                )
        })?;
        if !client.properties().features.tma.contains(Tma::Base) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                OPERATION,
                format!("GPU {index} has no copy engine for tensors, which the kernels need"),
            )
            .with_hint("Hopper (H100, H200) or newer is needed; `device = \"cpu\"` runs without"));
        }
        let gpu = Self { client, index };
        gpu.capture_alone()?;
        Ok(gpu)
    }

    /// Keeps this thread, and the GPU's, out of what others capture.
    fn capture_alone(&self) -> Result<()> {
        let exchanged = stay_apart().and(self.client.exclusive(stay_apart).map_err(lost)?);
        exchanged.map_err(|error| Error::new(ErrorKind::Unavailable, "open the GPU", error.to_string()))
    }

    /// Bytes of memory that the GPU has.
    pub(super) fn memory(&self) -> u64 {
        let memory = &self.client.properties().memory;
        memory.max_memory().unwrap_or(4 * memory.max_page_size)
    }

    /// What the driver calls this kind of GPU.
    pub(super) fn name(&self) -> String {
        self.client.properties().identity.name.clone()
    }

    /// Multiprocessors that the GPU has.
    pub(super) fn multiprocessors(&self) -> usize {
        self.client.properties().hardware.num_streaming_multiprocessors.unwrap_or(1) as usize
    }

    /// The queue, for launches.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Runs `work`, whose buffers stay for long: each gets memory of its own
    /// size, which is given back when it is dropped.
    pub(super) fn keep<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.client.memory_persistent_allocation((), |()| work())
    }

    /// Memory for `len` values, with whatever it held.
    pub(super) fn empty<T: Value>(&self, len: usize) -> Buffer<T> {
        Buffer { handle: self.client.empty(len * size_of::<T>()), len, value: PhantomData }
    }

    /// Memory for `len` values, all bits 0.
    pub(super) fn zeroed<T: Value>(&self, len: usize) -> Buffer<T> {
        let buffer = self.empty(len);
        for from in (0..len).step_by(ZEROS) {
            let count = ZEROS.min(len - from);
            let zeros = Bytes::from_bytes_vec(vec![0; count * size_of::<T>()]);
            self.client.write(&buffer.range(from, count).handle, zeros);
        }
        buffer
    }

    /// `len` bytes of the host, for [`Gpu::send`]: pinned, so that the device reads them
    /// by itself, if the driver has such memory left.
    pub(super) fn host_bytes(&self, len: usize) -> Bytes {
        let mut bytes = Bytes::from_bytes_vec(vec![0; len]);
        self.client.staging(std::iter::once(&mut bytes), false);
        bytes
    }

    /// Overwrites `buffer` with the first of `bytes`, in the order of the queue,
    /// and gives `bytes` back once they were taken over.
    ///
    /// # Errors
    /// A lost device.
    pub(super) fn send<T: Value>(&self, buffer: &Buffer<T>, bytes: Bytes) -> Result<Bytes> {
        let (home, back) = mpsc::channel();
        let len = buffer.len * size_of::<T>();
        let property = bytes.property();
        let lent = bytes::Bytes::from_owner(Lent { bytes: Some(bytes), home }).slice(..len);
        self.client.write(&buffer.handle, Bytes::from_shared(lent, property));
        // What was written from is held until the flush after the next.
        self.client.flush().map_err(lost)?;
        self.client.flush().map_err(lost)?;
        back.recv().map_err(|_| Error::bug("send to the GPU", "an upload was kept"))
    }

    /// Compiles what `work` launches, on all cores, without launching it. The caller holds
    /// a guard of [`Gpu::working`].
    ///
    /// # Errors
    /// Whatever `work` answers; a lost device.
    pub(super) fn compile(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let _compiling = COMPILING.read().unwrap_or_else(PoisonError::into_inner);
        let queueing = StreamModeOverride::new(StreamMode::Discard, &self.client);
        work()?;
        drop(queueing);
        self.client.compile_queued();
        self.sync()
    }

    /// The values, copied to the device.
    pub(super) fn upload<T: Value>(&self, values: &[T]) -> Buffer<T> {
        let handle = self.client.create_from_slice(T::as_bytes(values));
        Buffer { handle, len: values.len(), value: PhantomData }
    }

    /// Overwrites the first values of `buffer`, in the order of the queue.
    pub(super) fn write<T: Value>(&self, buffer: &Buffer<T>, values: &[T]) {
        self.client
            .write(&buffer.first(values.len()).handle, Bytes::from_bytes_vec(T::as_bytes(values).to_vec()));
    }

    /// Waits for everything before, and copies the values back.
    ///
    /// # Errors
    /// A failed launch or a lost device.
    pub(super) fn read<T: Value>(&self, buffer: &Buffer<T>) -> Result<Vec<T>> {
        let _ = stay_apart();
        let bytes = self.client.read_one(buffer.handle.clone()).map_err(lost)?;
        Ok(T::from_bytes(&bytes)[..buffer.len].to_vec())
    }

    /// Starts copying the values back, in the order of the queue.
    pub(super) fn read_later<T: Value>(&self, buffer: &Buffer<T>) -> Reading<T> {
        let (client, handle) = (self.client.clone(), buffer.handle.clone());
        let mut reading: Pin<Box<dyn Future<Output = Copied> + Send>> =
            Box::pin(async move { client.read_async(vec![handle]).await.map_err(lost) });
        // The first poll puts the copy into the queue.
        let copied = match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(copied) => Err(copied),
            Poll::Pending => Ok(reading),
        };
        Reading { copied, len: buffer.len, value: PhantomData }
    }

    /// Gives memory that nobody holds any more back to the driver.
    pub(super) fn give_back(&self) {
        let _working = self.working();
        // A device that is lost has nothing to give.
        let _ = self.client.memory_cleanup();
    }

    /// Waits until the device is done.
    ///
    /// # Errors
    /// A lost device.
    pub(super) fn sync(&self) -> Result<()> {
        let _ = stay_apart();
        cubecl::future::block_on(self.client.sync()).map_err(lost)
    }

    /// `error`, or that the device is lost for good, which the first failure does
    /// not always say.
    pub(super) fn reason(&self, error: Error) -> Error {
        match self.sync() {
            Err(lost) if lost.reach() == Reach::Process => lost,
            _ => error,
        }
    }

    /// Keeps other sessions from capturing on this GPU while the guard lives: a capture
    /// fails if another session takes memory meanwhile.
    pub(super) fn working(&self) -> RwLockReadGuard<'static, ()> {
        // Opening found out whether the driver can.
        let _ = stay_apart();
        self.capturing().read().unwrap_or_else(PoisonError::into_inner)
    }

    fn capturing(&self) -> &'static RwLock<()> {
        &CAPTURING[self.index as usize % CAPTURING.len()]
    }

    /// Captures what `work` launches, to be launched again as one. The caller holds no
    /// guard of [`Gpu::working`].
    ///
    /// # Errors
    /// Whatever `work` answers; a driver that cannot capture.
    pub(super) fn capture(&self, work: impl Fn() -> Result<()>) -> Result<CudaGraph> {
        let _alone = self.capturing().write().unwrap_or_else(PoisonError::into_inner);
        self.client.graph_prepare().map_err(lost)?;
        work()?;
        self.sync()?;
        let _nothing_compiles = COMPILING.write().unwrap_or_else(PoisonError::into_inner);
        self.client.start_capture().map_err(lost)?;
        let worked = work();
        let graph = self.client.stop_capture().map_err(lost);
        worked?;
        Ok(CudaGraph { graph: graph? })
    }
}

/// Keeps this thread out of what others capture: `CubeCL` captures in the driver's global
/// mode, in which any thread ends a capture by taking memory or waiting for an event, unless
/// it says that it has nothing to do with it. It says so once.
fn stay_apart() -> std::result::Result<(), DriverError> {
    thread_local! {
        static APART: Cell<bool> = const { Cell::new(false) };
    }
    if APART.get() {
        return Ok(());
    }
    let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: a GPU was opened, so that the driver is loaded, and the pointer is to a mode.
    unsafe { cuThreadExchangeStreamCaptureMode(&raw mut mode) }.result()?;
    APART.set(true);
    Ok(())
}

/// Bytes that go home when they were taken over.
struct Lent {
    /// There until this is dropped.
    bytes: Option<Bytes>,
    home: mpsc::Sender<Bytes>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes.take() {
            // Nobody waits any more if this fails.
            let _ = self.home.send(bytes);
        }
    }
}

type Copied = Result<Vec<Bytes>>;

/// Values on their way from the device.
pub(super) struct Reading<T> {
    copied: std::result::Result<Pin<Box<dyn Future<Output = Copied> + Send>>, Copied>,
    len: usize,
    value: PhantomData<T>,
}

impl<T: Value> Reading<T> {
    /// Waits for the values.
    ///
    /// # Errors
    /// A failed launch or a lost device.
    pub(super) fn wait(self) -> Result<Vec<T>> {
        let bytes = match self.copied {
            Ok(reading) => cubecl::future::block_on(reading),
            Err(copied) => copied,
        }?;
        let bytes = bytes.first().ok_or_else(|| Error::bug("read from the GPU", "nothing came back"))?;
        Ok(T::from_bytes(bytes)[..self.len].to_vec())
    }
}

/// Launches captured by [`Gpu::capture`].
pub(super) struct CudaGraph {
    graph: Graph,
}

impl Debug for CudaGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CudaGraph")
    }
}

impl CudaGraph {
    /// Launches everything again, on the same buffers.
    ///
    /// # Errors
    /// A lost device.
    pub(super) fn replay(&self) -> Result<()> {
        // SAFETY: the engine keeps every buffer that a graph names (the
        // workspace, the pages, the slots, the weights) for as long as it keeps
        // the graph, and launches and writes on one stream only.
        unsafe { self.graph.replay() }.map_err(lost)
    }
}

/// A failure of the device or of a launch.
#[expect(clippy::needless_pass_by_value, reason = "a function for `map_err`")]
pub(super) fn lost(error: ServerError) -> Error {
    const OPERATION: &str = "run the model on the GPU";
    let root = root(&error);
    let text = root.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Backtrace"));
    let message: String = lines.collect::<Vec<_>>().join(" ").chars().take(600).collect();
    match root {
        _ if error.is_device_poisoned() => Error::new(ErrorKind::DeviceLost, OPERATION, message)
            .with_reach(Reach::Process)
            .with_retry(Retry::Never)
            .with_hint("the driver lets this process use the GPU no more: start it again"),
        ServerError::Io(IoError::OutOfMemory { .. } | IoError::BufferTooBig { .. })
        | ServerError::Launch(LaunchError::OutOfMemory { .. }) => {
            Error::new(ErrorKind::ResourceExhausted, OPERATION, message)
                .with_hint("lower `memory_share`: something else uses the GPU's memory too")
        }
        _ => Error::new(ErrorKind::DeviceLost, OPERATION, message),
    }
}

/// The failure that others followed from.
fn root(error: &ServerError) -> &ServerError {
    match error {
        ServerError::Unwritten { root: first, .. } => root(first),
        ServerError::Several { errors, .. } => errors.first().map_or(error, root),
        _ => error,
    }
}

/// What a panic said.
fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("the driver could not be loaded")
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::values_after;

    #[test]
    fn a_view_ends_within_its_buffer() {
        assert_eq!(values_after(8, 0, 8), 0);
        assert_eq!(values_after(8, 3, 4), 1);
        assert_eq!(values_after(8, 8, 0), 0);
        for (from, len) in [(0, 9), (1, 8), (9, 0), (usize::MAX, 1), (1, usize::MAX)] {
            assert!(std::panic::catch_unwind(|| values_after(8, from, len)).is_err(), "{from} + {len}");
        }
    }
}
