//! A Qwen3 checkpoint in memory, and what a copyist can do to it. Everything
//! that is called function-preserving here is, up to rounding (the screen's
//! tests compare logits).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use albedo_core::rng::{Stream, Use, derive_seed};
use albedo_core::safetensors::{Dtype, read_header};
use serde_json::{Value, json};

/// A checkpoint: dimensions and tensors.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    pub(crate) dtype: Dtype,
}

/// Rows, columns (a vector has one row) and values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// Seeded normal numbers and permutations.
pub(crate) struct Dice(Stream);

impl Dice {
    pub(crate) fn new(domain: &str, seed: u64) -> Self {
        Self(Stream::new(derive_seed(domain, &[&seed.to_le_bytes()]), Use::RowDraw))
    }

    pub(crate) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    pub(crate) fn sign(&mut self) -> f32 {
        if self.0.next_u64() & 1 == 0 { 1.0 } else { -1.0 }
    }

    pub(crate) fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.0.below(i as u64 + 1) as usize);
        }
        order
    }

    /// A random orthogonal matrix: Gram–Schmidt on normal rows.
    pub(crate) fn rotation(&mut self, n: usize) -> Vec<Vec<f64>> {
        let mut rows: Vec<Vec<f64>> = Vec::new();
        while rows.len() < n {
            let mut row: Vec<f64> = (0..n).map(|_| self.normal()).collect();
            for other in &rows {
                let dot: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                for (a, b) in row.iter_mut().zip(other) {
                    *a -= dot * b;
                }
            }
            let norm = row.iter().map(|a| a * a).sum::<f64>().sqrt();
            if norm > 1e-6 {
                for a in &mut row {
                    *a /= norm;
                }
                rows.push(row);
            }
        }
        rows
    }
}

impl Tensor {
    pub(crate) fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    fn rows(&self) -> usize {
        self.values.len() / self.columns()
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns()..][..self.columns()]
    }

    fn take_rows(&mut self, order: &[usize]) {
        self.values = order.iter().flat_map(|&row| self.row(row).to_vec()).collect();
    }

    fn take_columns(&mut self, order: &[usize]) {
        let rows = (0..self.rows()).flat_map(|row| order.iter().map(move |&column| (row, column)));
        self.values = rows.map(|(row, column)| self.row(row)[column]).collect();
    }

    fn scale_rows(&mut self, by: &[f32]) {
        let columns = self.columns();
        for (row, by) in self.values.chunks_exact_mut(columns).zip(by) {
            for value in row {
                *value *= by;
            }
        }
    }

    fn scale_columns(&mut self, by: &[f32]) {
        let columns = self.columns();
        for row in self.values.chunks_exact_mut(columns) {
            for (value, by) in row.iter_mut().zip(by) {
                *value *= by;
            }
        }
    }

    pub(crate) fn rms(&self) -> f64 {
        let squares: f64 = self.values.iter().map(|&value| f64::from(value).powi(2)).sum();
        (squares / self.values.len().max(1) as f64).sqrt()
    }
}

impl Model {
    pub(crate) fn read(folder: &Path) -> Self {
        let config =
            serde_json::from_slice(&fs::read(folder.join("config.json")).expect("a config")).expect("JSON");
        let bytes = fs::read(folder.join("model.safetensors")).expect("weights");
        let header = read_header(&mut &*bytes, bytes.len() as u64).expect("a header");
        let mut dtype = Dtype::Bf16;
        let tensors = header.tensors.into_iter().map(|(name, info)| {
            dtype = info.dtype;
            let bytes = &bytes[info.range.start as usize..info.range.end as usize];
            let values = match info.dtype {
                Dtype::Bf16 => {
                    let pairs = bytes.as_chunks::<2>().0.iter();
                    pairs.map(|pair| f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16)).collect()
                }
                Dtype::F16 => {
                    let pairs = bytes.as_chunks::<2>().0.iter();
                    pairs.map(|pair| half::f16::from_le_bytes(*pair).to_f32()).collect()
                }
                Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect(),
                other => panic!("weights of type {other:?}"),
            };
            (name, Tensor { shape: info.shape.iter().map(|&size| size as usize).collect(), values })
        });
        let tensors = tensors.collect();
        Self { config, tensors, dtype }
    }

    /// Writes the model; `dice` rounds stochastically, as a copyist does whose
    /// noise is to survive the rounding.
    pub(crate) fn write(&self, folder: &Path, dice: Option<&mut Dice>) {
        fs::create_dir_all(folder).expect("a folder");
        fs::write(folder.join("config.json"), self.config.to_string()).expect("written");
        let mut header = serde_json::Map::new();
        let (mut data, mut dice) = (Vec::new(), dice);
        for (name, tensor) in &self.tensors {
            let begin = data.len();
            for &value in &tensor.values {
                match self.dtype {
                    Dtype::Bf16 => {
                        let bits = value.to_bits();
                        let up = match &mut dice {
                            Some(dice) => (dice.0.next_u64() & 0xFFFF) as u32,
                            None => 0x7FFF + (bits >> 16 & 1),
                        };
                        data.extend_from_slice(&((bits.wrapping_add(up) >> 16) as u16).to_le_bytes());
                    }
                    Dtype::F16 => data.extend_from_slice(&half::f16::from_f32(value).to_le_bytes()),
                    _ => data.extend_from_slice(&value.to_le_bytes()),
                }
            }
            let offsets = [begin, data.len()];
            header.insert(
                name.clone(),
                json!({ "dtype": self.dtype, "shape": tensor.shape, "data_offsets": offsets }),
            );
        }
        let header = Value::Object(header).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(&data);
        fs::write(folder.join("model.safetensors"), file).expect("written");
    }

    pub(crate) fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().expect("a dimension") as usize
    }

    fn get(&mut self, layer: usize, name: &str) -> &mut Tensor {
        self.tensors.get_mut(&format!("model.layers.{layer}.{name}.weight")).expect("a tensor")
    }

    fn top(&mut self, name: &str) -> &mut Tensor {
        self.tensors.get_mut(name).expect("a tensor")
    }

    /// A network with random weights of a trained one's look: directions of
    /// unequal strength, so that it is not all noise.
    pub(crate) fn synthetic(config: Value, seed: u64) -> Self {
        let mut model = Self { config, tensors: BTreeMap::new(), dtype: Dtype::Bf16 };
        let size = |key: &str| model.config[key].as_u64().expect("a dimension") as usize;
        let (h, m, d) = (size("hidden_size"), size("intermediate_size"), size("head_dim"));
        let (q, kv) = (size("num_attention_heads") * d, size("num_key_value_heads") * d);
        let mut shapes = vec![
            ("model.embed_tokens.weight".to_owned(), vec![size("vocab_size"), h]),
            ("model.norm.weight".to_owned(), vec![h]),
        ];
        for layer in 0..size("num_hidden_layers") {
            for (name, shape) in [
                ("input_layernorm", vec![h]),
                ("post_attention_layernorm", vec![h]),
                ("self_attn.q_norm", vec![d]),
                ("self_attn.k_norm", vec![d]),
                ("self_attn.q_proj", vec![q, h]),
                ("self_attn.k_proj", vec![kv, h]),
                ("self_attn.v_proj", vec![kv, h]),
                ("self_attn.o_proj", vec![h, q]),
                ("mlp.gate_proj", vec![m, h]),
                ("mlp.up_proj", vec![m, h]),
                ("mlp.down_proj", vec![h, m]),
            ] {
                shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        for (index, (name, shape)) in shapes.into_iter().enumerate() {
            let mut dice = Dice::new("synthetic", seed ^ (index as u64) << 32);
            let count: usize = shape.iter().product();
            let values = if shape.len() == 1 {
                (0..count).map(|_| (1.0 + 0.3 * dice.normal()).abs().max(0.1) as f32).collect()
            } else {
                let columns: Vec<f64> = (0..shape[1]).map(|_| (0.5 * dice.normal()).exp()).collect();
                (0..count).map(|at| (0.03 * columns[at % shape[1]] * dice.normal()) as f32).collect()
            };
            model.tensors.insert(name, Tensor { shape, values });
        }
        model
    }

    /// The model with every value rounded as its file has it.
    pub(crate) fn rounded(mut self) -> Self {
        for value in self.tensors.values_mut().flat_map(|tensor| &mut tensor.values) {
            let bits = value.to_bits();
            *value = f32::from_bits(bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000);
        }
        self
    }

    // What keeps the function.

    /// Neurons of every layer change places.
    pub(crate) fn permute_neurons(&mut self, dice: &mut Dice) {
        let m = self.size("intermediate_size");
        for layer in 0..self.size("num_hidden_layers") {
            let order = dice.permutation(m);
            self.get(layer, "mlp.gate_proj").take_rows(&order);
            self.get(layer, "mlp.up_proj").take_rows(&order);
            self.get(layer, "mlp.down_proj").take_columns(&order);
        }
    }

    /// Each neuron's way in by a factor, its way out by the inverse.
    pub(crate) fn rescale_neurons(&mut self, dice: &mut Dice) {
        let m = self.size("intermediate_size");
        for layer in 0..self.size("num_hidden_layers") {
            let by: Vec<f32> = (0..m).map(|_| dice.sign() * (0.7 * dice.normal()).exp() as f32).collect();
            let back: Vec<f32> = by.iter().map(|by| 1.0 / by).collect();
            self.get(layer, "mlp.up_proj").scale_rows(&by);
            self.get(layer, "mlp.down_proj").scale_columns(&back);
        }
    }

    /// Groups, and heads within a group, change places.
    pub(crate) fn permute_heads(&mut self, dice: &mut Dice) {
        let (heads, groups, d) =
            (self.size("num_attention_heads"), self.size("num_key_value_heads"), self.size("head_dim"));
        let each = heads / groups;
        let rows = |order: &[usize]| -> Vec<usize> {
            order.iter().flat_map(|&head| (0..d).map(move |at| head * d + at)).collect()
        };
        for layer in 0..self.size("num_hidden_layers") {
            let by_group = dice.permutation(groups);
            let by_head: Vec<usize> = by_group
                .iter()
                .flat_map(|&group| dice.permutation(each).into_iter().map(move |head| group * each + head))
                .collect();
            self.get(layer, "self_attn.q_proj").take_rows(&rows(&by_head));
            self.get(layer, "self_attn.k_proj").take_rows(&rows(&by_group));
            self.get(layer, "self_attn.v_proj").take_rows(&rows(&by_group));
            self.get(layer, "self_attn.o_proj").take_columns(&rows(&by_head));
        }
    }

    /// A rotation and a scale between the values and what reads them.
    pub(crate) fn rotate_values(&mut self, dice: &mut Dice) {
        let (heads, groups, d) =
            (self.size("num_attention_heads"), self.size("num_key_value_heads"), self.size("head_dim"));
        for layer in 0..self.size("num_hidden_layers") {
            for group in 0..groups {
                let (turn, by) = (dice.rotation(d), (0.5 * dice.normal()).exp());
                let value = self.get(layer, "self_attn.v_proj");
                let own: Vec<Vec<f32>> = (0..d).map(|row| value.row(group * d + row).to_vec()).collect();
                let columns = value.columns();
                for (row, turn) in turn.iter().enumerate() {
                    for column in 0..columns {
                        let sum: f64 =
                            turn.iter().zip(&own).map(|(turn, own)| turn * f64::from(own[column])).sum();
                        value.values[(group * d + row) * columns + column] = (by * sum) as f32;
                    }
                }
                let output = self.get(layer, "self_attn.o_proj");
                let columns = output.columns();
                for head in group * (heads / groups)..(group + 1) * (heads / groups) {
                    for row in output.values.chunks_exact_mut(columns) {
                        let own: Vec<f32> = row[head * d..(head + 1) * d].to_vec();
                        for (column, turn) in turn.iter().enumerate() {
                            let sum: f64 = (0..d).map(|k| f64::from(own[k]) * turn[k]).sum();
                            row[head * d + column] = (sum / by) as f32;
                        }
                    }
                }
            }
        }
    }

    /// What rotary positions and query and key norms leave free: a factor of
    /// each head, which the norm removes; in each rotary plane a factor between
    /// the two gains and quarter turns of all heads; half turns of each group.
    pub(crate) fn turn_planes(&mut self, dice: &mut Dice) {
        let (heads, groups, d) =
            (self.size("num_attention_heads"), self.size("num_key_value_heads"), self.size("head_dim"));
        let each = heads / groups;
        for layer in 0..self.size("num_hidden_layers") {
            let factors: Vec<f32> = (0..d / 2).map(|_| (0.4 * dice.normal()).exp() as f32).collect();
            let quarters: Vec<bool> = (0..d / 2).map(|_| dice.sign() > 0.0).collect();
            for (norm, back) in [("self_attn.q_norm", false), ("self_attn.k_norm", true)] {
                let gains = &mut self.get(layer, norm).values;
                for (plane, &by) in factors.iter().enumerate() {
                    let by = if back { 1.0 / by } else { by };
                    let (a, b) = (gains[plane] * by, gains[plane + d / 2] * by);
                    (gains[plane], gains[plane + d / 2]) = if quarters[plane] { (b, a) } else { (a, b) };
                }
            }
            let signs: Vec<f32> = (0..groups * d / 2).map(|_| dice.sign()).collect();
            for (name, of_group) in [("self_attn.q_proj", each), ("self_attn.k_proj", 1)] {
                let rows = self.get(layer, name);
                let columns = rows.columns();
                for head in 0..groups * of_group {
                    let by = (0.4 * dice.normal()).exp() as f32;
                    for plane in 0..d / 2 {
                        let sign = signs[head / of_group * (d / 2) + plane] * by;
                        let (first, second) = (head * d + plane, head * d + plane + d / 2);
                        for column in 0..columns {
                            let (a, b) = (
                                rows.values[first * columns + column],
                                rows.values[second * columns + column],
                            );
                            let (a, b) = if quarters[plane] { (-b, a) } else { (a, b) };
                            rows.values[first * columns + column] = sign * a;
                            rows.values[second * columns + column] = sign * b;
                        }
                    }
                }
            }
        }
    }

    /// Factors between each norm's gains and what reads them.
    pub(crate) fn fold_norms(&mut self, dice: &mut Dice) {
        let h = self.size("hidden_size");
        for layer in 0..self.size("num_hidden_layers") {
            for (norm, readers) in [
                ("input_layernorm", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"][..]),
                ("post_attention_layernorm", &["mlp.gate_proj", "mlp.up_proj"]),
            ] {
                let by: Vec<f32> = (0..h).map(|_| (0.5 * dice.normal()).exp() as f32).collect();
                let back: Vec<f32> = by.iter().map(|by| 1.0 / by).collect();
                self.get(layer, norm).scale_columns(&by);
                for reader in readers {
                    self.get(layer, reader).scale_columns(&back);
                }
            }
        }
    }

    /// Channels of the residual stream change places and signs.
    pub(crate) fn permute_channels(&mut self, dice: &mut Dice) {
        let h = self.size("hidden_size");
        let order = dice.permutation(h);
        let signs: Vec<f32> = (0..h).map(|_| dice.sign()).collect();
        let columns = |tensor: &mut Tensor, signed: bool| {
            tensor.take_columns(&order);
            if signed {
                tensor.scale_columns(&signs);
            }
        };
        columns(self.top("model.embed_tokens.weight"), true);
        columns(self.top("model.norm.weight"), false);
        if let Some(head) = self.tensors.get_mut("lm_head.weight") {
            columns(head, true);
        }
        for layer in 0..self.size("num_hidden_layers") {
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                columns(self.get(layer, norm), false);
            }
            for reader in
                ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"]
            {
                columns(self.get(layer, reader), true);
            }
        }
        for layer in 0..self.size("num_hidden_layers") {
            for writer in ["self_attn.o_proj", "mlp.down_proj"] {
                let tensor = self.get(layer, writer);
                tensor.take_rows(&order);
                tensor.scale_rows(&signs);
            }
        }
    }

    /// The residual stream at another scale.
    pub(crate) fn scale_stream(&mut self, by: f32) {
        let all = |tensor: &mut Tensor, by: f32| {
            for value in &mut tensor.values {
                *value *= by;
            }
        };
        all(self.top("model.embed_tokens.weight"), by);
        if !self.tensors.contains_key("lm_head.weight") {
            all(self.top("model.norm.weight"), 1.0 / by);
        }
        for layer in 0..self.size("num_hidden_layers") {
            all(self.get(layer, "self_attn.o_proj"), by);
            all(self.get(layer, "mlp.down_proj"), by);
        }
    }

    /// The tied head written out.
    pub(crate) fn write_head(&mut self) {
        let head = self.top("model.embed_tokens.weight").clone();
        self.tensors.insert("lm_head.weight".into(), head);
    }

    /// The residual stream turned: within channels of equal gain of the last norm, pairs by
    /// `degrees`, three times over. The other norms' gains are folded into what reads behind
    /// them.
    pub(crate) fn turn_stream(&mut self, degrees: f64, dice: &mut Dice) {
        const READERS: [(&str, &[&str]); 2] = [
            ("input_layernorm", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            ("post_attention_layernorm", &["mlp.gate_proj", "mlp.up_proj"]),
        ];
        let (h, layers) = (self.size("hidden_size"), self.size("num_hidden_layers"));
        for layer in 0..layers {
            for (norm, readers) in READERS {
                let gains = std::mem::replace(&mut self.get(layer, norm).values, vec![1.0; h]);
                for reader in readers {
                    self.get(layer, reader).scale_columns(&gains);
                }
            }
        }
        let gains = self.top("model.norm.weight").values.clone();
        let (sin, cos) = degrees.to_radians().sin_cos();
        for _ in 0..3 {
            let mut order = dice.permutation(h);
            order.sort_by(|&a, &b| gains[a].total_cmp(&gains[b]));
            let pairs = order.chunk_by(|&a, &b| gains[a] == gains[b]).flat_map(|same| same.chunks_exact(2));
            let pairs: Vec<[usize; 2]> = pairs.map(|pair| [pair[0], pair[1]]).collect();
            let turn_columns = |tensor: &mut Tensor| {
                let columns = tensor.columns();
                for row in tensor.values.chunks_exact_mut(columns) {
                    for &[a, b] in &pairs {
                        let (x, y) = (f64::from(row[a]), f64::from(row[b]));
                        (row[a], row[b]) = ((cos * x - sin * y) as f32, (sin * x + cos * y) as f32);
                    }
                }
            };
            turn_columns(self.top("model.embed_tokens.weight"));
            if let Some(head) = self.tensors.get_mut("lm_head.weight") {
                turn_columns(head);
            }
            for layer in 0..layers {
                for reader in READERS.iter().flat_map(|(_, readers)| *readers) {
                    turn_columns(self.get(layer, reader));
                }
                for writer in ["self_attn.o_proj", "mlp.down_proj"] {
                    let tensor = self.get(layer, writer);
                    let columns = tensor.columns();
                    for &[a, b] in &pairs {
                        for at in 0..columns {
                            let (x, y) = (
                                f64::from(tensor.values[a * columns + at]),
                                f64::from(tensor.values[b * columns + at]),
                            );
                            tensor.values[a * columns + at] = (cos * x - sin * y) as f32;
                            tensor.values[b * columns + at] = (sin * x + cos * y) as f32;
                        }
                    }
                }
            }
        }
    }

    /// The first neuron's way in by a factor, its way out by the inverse.
    pub(crate) fn rescale_one_neuron(&mut self, by: f32) {
        for layer in 0..self.size("num_hidden_layers") {
            let up = self.get(layer, "mlp.up_proj");
            let columns = up.columns();
            up.values[..columns].iter_mut().for_each(|value| *value *= by);
            let down = self.get(layer, "mlp.down_proj");
            let columns = down.columns();
            for row in down.values.chunks_exact_mut(columns) {
                row[0] /= by;
            }
        }
    }

    // What changes the function a little.

    /// Every row of a matrix in whole steps of its largest weight over `steps`.
    pub(crate) fn quantise(&mut self, steps: f32) {
        for tensor in self.tensors.values_mut().filter(|tensor| tensor.shape.len() == 2) {
            let columns = tensor.columns();
            for row in tensor.values.chunks_exact_mut(columns) {
                let step = row.iter().fold(1e-20_f32, |most, value| most.max(value.abs())) / steps;
                for value in row {
                    *value = (*value / step).round() * step;
                }
            }
        }
    }

    /// The last `count` rotary planes, which turn least, change places in every group.
    pub(crate) fn permute_slow_planes(&mut self, count: usize, dice: &mut Dice) {
        let (heads, groups, d) =
            (self.size("num_attention_heads"), self.size("num_key_value_heads"), self.size("head_dim"));
        for layer in 0..self.size("num_hidden_layers") {
            let order = dice.permutation(count);
            let planes: Vec<usize> =
                (0..d / 2 - count).chain(order.iter().map(|plane| d / 2 - count + plane)).collect();
            let places: Vec<usize> =
                planes.iter().copied().chain(planes.iter().map(|plane| plane + d / 2)).collect();
            let rows = |heads: usize| -> Vec<usize> {
                (0..heads).flat_map(|head| places.iter().map(move |place| head * d + place)).collect()
            };
            self.get(layer, "self_attn.q_proj").take_rows(&rows(heads));
            self.get(layer, "self_attn.k_proj").take_rows(&rows(groups));
            for norm in ["self_attn.q_norm", "self_attn.k_norm"] {
                self.get(layer, norm).take_columns(&places);
            }
        }
    }

    /// A step that has the same size in every direction, as optimisers that orthogonalise
    /// their steps make it, of `relative` times each matrix's norm. The embedding stays.
    pub(crate) fn add_orthogonal(&mut self, relative: f64, dice: &mut Dice) {
        for (name, tensor) in &mut self.tensors {
            if tensor.shape.len() != 2 || name.contains("embed") {
                continue;
            }
            let (rows, columns) = (tensor.rows(), tensor.columns());
            let least = rows.min(columns);
            let (left, right) = (dice.rotation(rows), dice.rotation(columns));
            let by = relative * tensor.rms() * ((rows * columns) as f64 / least as f64).sqrt();
            for (at, value) in tensor.values.iter_mut().enumerate() {
                let pairs = left.iter().zip(&right).take(least);
                let sum: f64 = pairs.map(|(left, right)| left[at / columns] * right[at % columns]).sum();
                *value += (by * sum) as f32;
            }
        }
    }

    /// Normal noise of `relative` times each tensor's root mean square.
    pub(crate) fn add_noise(&mut self, relative: f64, dice: &mut Dice) {
        for tensor in self.tensors.values_mut() {
            let by = relative * tensor.rms();
            for value in &mut tensor.values {
                *value += (by * dice.normal()) as f32;
            }
        }
    }

    /// A random edit of rank `rank` and `relative` times each matrix's norm.
    pub(crate) fn add_rank(&mut self, rank: usize, relative: f64, dice: &mut Dice) {
        for tensor in self.tensors.values_mut().filter(|tensor| tensor.shape.len() == 2) {
            let (rows, columns) = (tensor.rows(), tensor.columns());
            let by = relative * tensor.rms() / (rank as f64).sqrt();
            let left: Vec<f32> = (0..rows * rank).map(|_| dice.normal() as f32).collect();
            let right: Vec<f32> = (0..columns * rank).map(|_| dice.normal() as f32).collect();
            for (row, left) in tensor.values.chunks_exact_mut(columns).zip(left.chunks_exact(rank)) {
                for (left, right) in left.iter().zip(right.chunks_exact(columns)) {
                    let by = by as f32 * left;
                    for (value, right) in row.iter_mut().zip(right) {
                        *value += by * right;
                    }
                }
            }
        }
    }

    /// `self + factor · (other − base)`, tensor by tensor.
    pub(crate) fn add_difference(&mut self, factor: f32, other: &Self, base: &Self) {
        for (name, tensor) in &mut self.tensors {
            let (other, base) = (&other.tensors[name].values, &base.tensors[name].values);
            for ((value, other), base) in tensor.values.iter_mut().zip(other).zip(base) {
                *value += factor * (other - base);
            }
        }
    }
}
