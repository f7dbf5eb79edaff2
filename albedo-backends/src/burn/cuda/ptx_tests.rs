//! Every kernel, compiled to PTX as for an H100, without one. `.ci/ptx` assembles what
//! is written to the folder `ALBEDO_PTX`.

use std::ffi::CStr;
use std::path::PathBuf;
use std::sync::Arc;

use cubecl::ir::features::{Features, Tma};
use cubecl::ir::nvidia::SmArch;
use cubecl::ir::{
    AddressType, DeviceIdentity, DeviceProperties, ElemType, FloatKind, HardwareProperties,
    MemoryDeviceProperties, OpaqueType, VectorSize,
};
use cubecl::prelude::*;
use cubecl::profile::TimingMethod;
use cubecl::{Compiler, CubeKernel};
use cubecl_llvm::nvptx::ptx_version::PtxVersion;
use cubecl_llvm::{LlvmTarget, PlironArtifact, PlironCompiler, PlironOptions};
use half::bf16;

use super::kernels::attention::decode::{self, attend_split, merge_splits};
use super::kernels::attention::prefill::{self, attend_tiles};
use super::kernels::codes::widen_pages;
use super::kernels::product_few::{STAGE, product_few};
use super::kernels::rows::{
    TOGETHER, add_norm, clear, decode_inputs, embed, qk_norm_rope_write_kv, take, take_rows,
};
use super::kernels::{product_many as many, sample as sampling};
use super::launch::{BF16, BYTE};
use super::products::ProductSize;
use super::settings::{TOKENS, few_rows, head};

/// The first driver that is supported, 580, is that of CUDA 13.0.
const DRIVER: i32 = 13000;

/// What `CubeCL` finds on an H100 of what the kernels need.
fn h100() -> Arc<DeviceProperties> {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 32,
        max_shared_memory_size: 232_448,
        max_cube_count: (u32::MAX, u32::from(u16::MAX), u32::from(u16::MAX)),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 1024),
        num_streaming_multiprocessors: Some(132),
        num_tensor_cores: None,
        min_tensor_cores_dim: None,
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: VectorSize::MAX,
        cube_mma_reserved_shared_memory: 0,
    };
    let identity = DeviceIdentity { name: "none".into(), fingerprint: "none".into(), physical: None };
    let memory = MemoryDeviceProperties::new(u64::MAX, 256);
    let mut properties =
        DeviceProperties::new(Features::default(), memory, hardware, TimingMethod::Device, identity);
    let architecture = SmArch::new(90, true);
    properties.features.tma.insert(Tma::Base);
    properties.register_opaque_type(OpaqueType::TensorMap);
    properties.register_opaque_type(OpaqueType::Barrier);
    let products = cubecl_llvm::nvptx::wgmma::configs(architecture);
    properties.features.matmul.wgmma.extend(products.iter().copied());
    Arc::new(properties)
}

/// Compiles `kernel`, and writes it as `name` if that is asked for.
#[expect(clippy::needless_pass_by_value, reason = "a kernel is made for one compilation")]
fn ptx(name: &str, kernel: impl CubeKernel) -> String {
    let options = PlironOptions {
        sm_arch: Some(SmArch::new(90, true)),
        ptx_version: PtxVersion::for_driver(DRIVER),
        grid_constants: true,
        ..Default::default()
    };
    let mut compiler = PlironCompiler { target: LlvmTarget::Nvptx };
    let compiled = compiler.compile(kernel.define(), &options);
    let Ok(PlironArtifact::NvptxCode(module)) = compiled else { panic!("{name} does not compile") };
    // SAFETY: the compiler ends its text with a zero.
    let text = unsafe { CStr::from_ptr(module.ptx.as_ptr()) }.to_string_lossy().into_owned();
    if let Some(folder) = std::env::var_os("ALBEDO_PTX").map(PathBuf::from) {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.ptx")), &text).unwrap();
    }
    assert!(!text.contains(".local"), "{name} has memory of its own where it should have registers");
    text
}

fn of(units: u32) -> KernelSettings {
    KernelSettings::new(*CubeDim::new_1d(units), ExecutionMode::Unchecked, AddressType::U32)
}

fn buffer() -> BufferCompilationArg {
    BufferCompilationArg { inplace: None }
}

fn target() -> Arc<TargetProperties> {
    Arc::new(TargetProperties::default())
}

/// Products multiply by warpgroups, one and the same chain of sums in either kernel.
#[test]
fn products_compile() {
    for (gated, widths) in [(false, &[256, 192, 160, 128][..]), (true, &[256, 192])] {
        for &columns in widths {
            let kernel = many::product_many::ProductMany::new(
                of(many::UNITS),
                h100(),
                target(),
                (),
                (),
                (),
                (),
                (),
                (),
                (),
                columns,
                gated,
                16,
            );
            let text = ptx(&format!("product_many_{columns}_{gated}"), kernel);
            assert!(text.contains(&format!("wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.bf16.bf16")));
        }
    }
    let shapes = [(2560, 6144, false), (4096, 2560, false), (2560, 9728, true), (9728, 2560, false)];
    for tokens in TOKENS {
        let units = of(128 * tokens.div_ceil(64) as u32 + 32);
        for (k, width, gated) in shapes {
            let cut = few_rows(ProductSize { rows: tokens, k, width, gated });
            let stages = k.div_ceil(STAGE * cut.split_k);
            let (split_k, columns, ahead) = (cut.split_k, cut.columns, cut.ahead);
            let name = format!("product_few_{tokens}_{k}_{width}");
            if split_k > 1 {
                ptx(
                    &name,
                    product_few::ProductFew::<f32>::new(
                        units.clone(),
                        h100(),
                        target(),
                        (),
                        (),
                        buffer(),
                        (),
                        (),
                        stages,
                        split_k,
                        tokens,
                        columns,
                        ahead,
                        gated,
                    ),
                );
            } else {
                ptx(
                    &name,
                    product_few::ProductFew::<bf16>::new(
                        units.clone(),
                        h100(),
                        target(),
                        (),
                        (),
                        buffer(),
                        (),
                        (),
                        stages,
                        split_k,
                        tokens,
                        columns,
                        ahead,
                        gated,
                    ),
                );
            }
        }
        let cut = head(tokens);
        let stages = 2560usize.div_ceil(STAGE);
        ptx(
            &format!("product_few_{tokens}_head"),
            product_few::ProductFew::<f32>::new(
                units,
                h100(),
                target(),
                (),
                (),
                buffer(),
                (),
                (),
                stages,
                1,
                tokens,
                cut.columns,
                cut.ahead,
                false,
            ),
        );
    }
}

#[test]
fn attention_compiles() {
    for (heads, kv, dim) in [(32, 8, 128), (4, 1, 64), (6, 2, 32)] {
        let kernel = attend_tiles::AttendTiles::new(
            of(prefill::UNITS),
            h100(),
            target(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            (),
            (),
            heads,
            kv,
            dim,
        );
        let text = ptx(&format!("attend_tiles_{dim}"), kernel);
        assert!(text.contains("ex2.approx.ftz.f32") && text.contains("bar.arrive 3, 256"));
        let (heads, kv) = (heads as usize, kv as usize);
        for (halves, codes) in [(1, false), (2, false), (1, true), (2, true)] {
            let kernel = attend_split::AttendSplit::new(
                of(decode::UNITS),
                h100(),
                target(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                (),
                (),
                (),
                heads,
                kv,
                dim,
                halves,
                codes,
                if codes { 2 } else { 4 },
            );
            ptx(&format!("attend_split_{dim}_{halves}_{codes}"), kernel);
            let kernel = merge_splits::MergeSplits::new(
                of(decode::MERGE_UNITS),
                h100(),
                target(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                (),
                (),
                heads,
                dim,
                halves,
            );
            ptx(&format!("merge_splits_{dim}_{halves}"), kernel);
        }
        let kernel = widen_pages::WidenPages::new(
            of(256),
            h100(),
            target(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            kv,
            dim,
        );
        ptx(&format!("widen_pages_{dim}"), kernel);
    }
}

#[test]
fn kernels_of_rows_compile() {
    let f32s = ElemType::Float(FloatKind::F32);
    ptx(
        "decode_inputs",
        decode_inputs::DecodeInputs::new(
            of(128),
            h100(),
            target(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            (),
        ),
    );
    ptx("embed", embed::Embed::new(of(128), h100(), target(), buffer(), buffer(), buffer(), buffer(), 320));
    for (name, split_k, element) in [("first", 0, BF16), ("rounded", 1, BF16), ("split_k", 4, f32s)] {
        ptx(
            &format!("add_norm_{name}"),
            add_norm::AddNorm::new(
                of(320),
                h100(),
                target(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                (),
                (),
                320,
                10,
                split_k,
                element,
            ),
        );
    }
    for (name, split_k, element, together, codes) in [
        ("rounded", 1, BF16, TOGETHER, false),
        ("rounded_apart", 1, BF16, 1, false),
        ("split_k_apart", 4, f32s, 1, false),
        ("rounded_codes", 1, BF16, TOGETHER, true),
        ("rounded_codes_apart", 1, BF16, 1, true),
        ("split_k_codes_apart", 4, f32s, 1, true),
    ] {
        ptx(
            &format!("qk_norm_rope_write_kv_{name}"),
            qk_norm_rope_write_kv::QkNormRopeWriteKv::new(
                of(256),
                h100(),
                target(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                (),
                (),
                (),
                (),
                32,
                8,
                128,
                64,
                split_k,
                together,
                codes,
                element,
                if codes { BYTE } else { BF16 },
                if codes { 2 } else { 4 },
            ),
        );
    }
    ptx("clear", clear::Clear::new(of(256), h100(), target(), buffer()));
    ptx("take", take::Take::new(of(128), h100(), target(), buffer(), buffer(), buffer()));
    ptx(
        "take_rows",
        take_rows::TakeRows::<f32>::new(of(128), h100(), target(), buffer(), buffer(), buffer(), 320),
    );
    ptx(
        "sample",
        sampling::sample::Sample::new(
            of(sampling::UNITS),
            h100(),
            target(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            (),
        ),
    );
    ptx(
        "log_prob",
        sampling::log_prob::LogProb::new(
            of(sampling::UNITS),
            h100(),
            target(),
            buffer(),
            buffer(),
            buffer(),
            (),
        ),
    );
}
