//! The refiner's weights as the kernels want them, uploaded once.

use super::error::CudaError;
use super::front::DeviceNormalisation;
use super::half::half_bits;
use super::launch::Launcher;
use super::memory::{Allocator, Buffer, Number};
use super::precision::Precision;
use crate::bundle::manifest::ChannelOrder;
use crate::bundle::refiner::{BatchNorm, HIDDEN, Kernel, Linear, RefinerWeights, Residual, Strided};
use crate::plan::{Normalisation, Plan};
use crate::types::UNLABELLED;

/// Output channels of one thread, `GROUP` of `network.cu`.
pub(super) const GROUP: usize = 8;

/// Tile sizes of `tensor_cores.cu`: channels of a chunk, halves of depth per step, outputs per column tile.
pub(super) const CHUNK: usize = 16;
const DEPTH: usize = 32;
pub(super) const TILE_OUTPUTS: usize = 32;

/// Added to the variance of a normalisation, METHODS 1.2.
const EPSILON: f32 = 1e-5;

/// Takes memory for numbers and copies them there; in a dry run only counts.
pub(super) struct Uploader<'a> {
    pub(super) allocator: &'a mut Allocator,
    pub(super) launcher: Option<&'a Launcher<'a>>,
    /// How convolutions run.
    pub(super) precision: Precision,
}

impl Uploader<'_> {
    pub(super) fn put<T: Number>(
        &mut self,
        part: &'static str,
        values: &[T],
    ) -> Result<Buffer<T>, CudaError> {
        let mut buffer = self.allocator.buffer(part, values.len())?;
        if let Some(launcher) = self.launcher {
            launcher.upload_now(values, &mut buffer)?;
        }
        Ok(buffer)
    }

    /// Mean and deviation of a network's input.
    pub(super) fn normalisation(&mut self, of: &Normalisation) -> Result<DeviceNormalisation, CudaError> {
        let values: Vec<f32> = of.mean.iter().chain(&of.std).copied().collect();
        Ok(DeviceNormalisation {
            values: self.put("tables", &values)?,
            reversed: of.order == ChannelOrder::Bgr,
        })
    }

    /// The label of each class of a plan; unlabelled beyond them.
    pub(super) fn label_of_channel(&mut self, plan: &Plan) -> Result<Buffer<u8>, CudaError> {
        let mut label_of_channel = [UNLABELLED; 256];
        let labels = plan.label_of_channel();
        label_of_channel[..labels.len()].copy_from_slice(&labels);
        self.put("tables", &label_of_channel)
    }
}

/// A batch normalisation as `scale * x + shift`.
pub(super) struct Affine {
    pub(super) scale: Buffer<f32>,
    pub(super) shift: Buffer<f32>,
}

/// Scale and shift of a normalisation, as `cpu::sparse_conv::Affine`.
fn inference(bn: &BatchNorm) -> (Vec<f32>, Vec<f32>) {
    let scale: Vec<f32> =
        bn.weight.iter().zip(&bn.running_var).map(|(weight, var)| weight / (var + EPSILON).sqrt()).collect();
    let shift =
        bn.bias.iter().zip(&bn.running_mean).zip(&scale).map(|((bias, mean), s)| bias - mean * s).collect();
    (scale, shift)
}

impl Affine {
    fn new(uploader: &mut Uploader<'_>, bn: &BatchNorm) -> Result<Self, CudaError> {
        let (scale, shift) = inference(bn);
        Ok(Self { scale: uploader.put("weights", &scale)?, shift: uploader.put("weights", &shift)? })
    }
}

/// A convolution or linear layer over sites, `[tap][in][padded out]`.
pub(super) struct Convolution {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) taps: usize,
    /// `[tap][in][padded out]`; empty where the halves are used.
    pub(super) weights: Buffer<f32>,
    pub(super) bias: Buffer<f32>,
    /// For tensor cores, `conv_f16` of `tensor_cores.cu` says how they lie.
    pub(super) halves: Option<Buffer<u16>>,
}

/// Weights `[tap][in][out]` as `[column tile][step][TILE_OUTPUTS][DEPTH]` halves, zeros where there is no channel.
fn tensor_core_weights((inputs, outputs): (usize, usize), taps: usize, values: &[f32]) -> Vec<u16> {
    let chunks = inputs.div_ceil(CHUNK);
    let steps = (taps * chunks).div_ceil(2);
    let mut packed = vec![0; outputs.div_ceil(TILE_OUTPUTS) * steps * TILE_OUTPUTS * DEPTH];
    for out in 0..outputs {
        let (tile, row) = (out / TILE_OUTPUTS, out % TILE_OUTPUTS);
        for tap in 0..taps {
            for input in 0..inputs {
                let chunk = tap * chunks + input / CHUNK;
                let (step, depth) = (chunk / 2, chunk % 2 * CHUNK + input % CHUNK);
                packed[((tile * steps + step) * TILE_OUTPUTS + row) * DEPTH + depth] =
                    half_bits(values[(tap * inputs + input) * outputs + out]);
            }
        }
    }
    packed
}

impl Convolution {
    /// Half-precision chunks of an input row.
    pub(super) fn chunks(&self) -> usize {
        self.inputs.div_ceil(CHUNK)
    }

    /// Outputs rounded up to whole groups.
    pub(super) fn padded(outputs: usize) -> usize {
        outputs.next_multiple_of(GROUP)
    }

    /// `values` are `[tap][in][out]`; `fold` gives the factor and bias of an output.
    fn pack(
        uploader: &mut Uploader<'_>,
        (inputs, outputs): (usize, usize),
        values: &[f32],
        fold: impl Fn(usize) -> (f32, f32),
    ) -> Result<Self, CudaError> {
        let rows = values.len() / outputs;
        let half = uploader.precision == Precision::Half;
        let padded = if half { outputs.next_multiple_of(TILE_OUTPUTS) } else { Self::padded(outputs) };
        let mut weights = vec![0.0; rows * padded];
        let mut bias = vec![0.0; padded];
        for out in 0..outputs {
            let (scale, shift) = fold(out);
            bias[out] = shift;
            for row in 0..rows {
                weights[row * padded + out] = values[row * outputs + out] * scale;
            }
        }
        let taps = rows / inputs;
        let mut halves = None;
        if half {
            let folded: Vec<f32> =
                weights.chunks_exact(padded).flat_map(|row| &row[..outputs]).copied().collect();
            halves = Some(uploader.put("weights", &tensor_core_weights((inputs, outputs), taps, &folded))?);
            weights.clear();
        }
        let (weights, bias) = (uploader.put("weights", &weights)?, uploader.put("weights", &bias)?);
        Ok(Self { inputs, outputs, taps, weights, bias, halves })
    }

    fn plain(uploader: &mut Uploader<'_>, kernel: &Kernel) -> Result<Self, CudaError> {
        Self::pack(uploader, (kernel.inputs, kernel.outputs), &kernel.values, |_| (1.0, 0.0))
    }

    /// With the normalisation that follows folded in.
    fn with_norm(uploader: &mut Uploader<'_>, kernel: &Kernel, bn: &BatchNorm) -> Result<Self, CudaError> {
        let (scale, shift) = inference(bn);
        Self::pack(uploader, (kernel.inputs, kernel.outputs), &kernel.values, |out| (scale[out], shift[out]))
    }

    fn linear(uploader: &mut Uploader<'_>, layer: &Linear) -> Result<Self, CudaError> {
        let values = transposed(layer);
        Self::pack(uploader, (layer.inputs, layer.outputs), &values, |out| (1.0, layer.bias[out]))
    }
}

/// `[in][out]` of a layer's `[out][in]`.
fn transposed(layer: &Linear) -> Vec<f32> {
    let Linear { inputs, outputs, weight, .. } = layer;
    (0..inputs * outputs).map(|index| weight[index % outputs * inputs + index / outputs]).collect()
}

/// A pre-activation residual block, `bn2` folded into `conv1`.
pub(super) struct Block {
    pub(super) projection: Option<Convolution>,
    pub(super) bn1: Affine,
    pub(super) conv1: Convolution,
    pub(super) conv2: Convolution,
}

impl Block {
    fn new(uploader: &mut Uploader<'_>, block: &Residual) -> Result<Self, CudaError> {
        Ok(Self {
            projection: block.projection.as_ref().map(|p| Convolution::plain(uploader, p)).transpose()?,
            bn1: Affine::new(uploader, &block.bn1)?,
            conv1: Convolution::with_norm(uploader, &block.conv1, &block.bn2)?,
            conv2: Convolution::plain(uploader, &block.conv2)?,
        })
    }
}

/// A normalisation with ReLU and the strided convolution after it.
pub(super) struct Step {
    pub(super) norm: Affine,
    pub(super) conv: Convolution,
}

impl Step {
    fn new(uploader: &mut Uploader<'_>, step: &Strided) -> Result<Self, CudaError> {
        Ok(Self { norm: Affine::new(uploader, &step.bn)?, conv: Convolution::plain(uploader, &step.kernel)? })
    }
}

/// The way to the next coarser level and back.
pub(super) struct Descent {
    pub(super) down: Step,
    pub(super) up: Step,
    pub(super) post: Vec<Block>,
}

/// One level of the U-Net.
pub(super) struct NetworkLevel {
    pub(super) channels: usize,
    pub(super) pre: Vec<Block>,
    pub(super) descent: Option<Descent>,
}

/// Gate and fuser, first layers `[in][HIDDEN]`, second ones `[out][HIDDEN]`.
pub(super) struct GateWeights {
    pub(super) gate: [(Buffer<f32>, Buffer<f32>); 2],
    pub(super) fuser: [(Buffer<f32>, Buffer<f32>); 2],
}

/// All of the refiner on the device.
pub(super) struct NetworkWeights {
    pub(super) classes: usize,
    pub(super) input_channels: usize,
    pub(super) stem: Convolution,
    pub(super) levels: Vec<NetworkLevel>,
    pub(super) head: Affine,
    pub(super) classifier: Convolution,
    pub(super) gate: GateWeights,
}

impl NetworkWeights {
    pub(super) fn new(uploader: &mut Uploader<'_>, weights: &RefinerWeights) -> Result<Self, CudaError> {
        let mut levels = Vec::with_capacity(weights.levels.len());
        for (level, &channels) in weights.levels.iter().zip(&weights.spec.planes) {
            let pre = level.pre.iter().map(|block| Block::new(uploader, block)).collect::<Result<_, _>>()?;
            let descent = match &level.descent {
                Some(descent) => Some(Descent {
                    down: Step::new(uploader, &descent.down)?,
                    up: Step::new(uploader, &descent.up)?,
                    post: descent.post.iter().map(|b| Block::new(uploader, b)).collect::<Result<_, _>>()?,
                }),
                None => None,
            };
            levels.push(NetworkLevel { channels, pre, descent });
        }
        let mut pair = |layers: &[Linear; 2]| -> Result<_, CudaError> {
            assert_eq!((layers[0].outputs, layers[1].inputs), (HIDDEN, HIDDEN));
            let first = (
                uploader.put("weights", &transposed(&layers[0]))?,
                uploader.put("weights", &layers[0].bias)?,
            );
            let second =
                (uploader.put("weights", &layers[1].weight)?, uploader.put("weights", &layers[1].bias)?);
            Ok([first, second])
        };
        let gate = GateWeights { gate: pair(&weights.gate)?, fuser: pair(&weights.fuser)? };
        Ok(Self {
            classes: weights.spec.classes,
            input_channels: weights.spec.input_channels(),
            stem: Convolution::plain(uploader, &weights.stem)?,
            levels,
            head: Affine::new(uploader, &weights.head)?,
            classifier: Convolution::linear(uploader, &weights.classifier)?,
            gate,
        })
    }
}
