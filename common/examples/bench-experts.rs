//! Speed of the operations of a mixture's experts on a GPU, on random weights of Qwen3-30B-A3B's shape, or of another.
//!
//! ```text
//! bench-experts [EXPERTS CHOSEN WIDTH HIDDEN TOKENS...]
//! ```
//!
//! Prints a JSON object a line: milliseconds of each operation for a number of tokens, and TFLOP/s of products, which
//! count the frozen weights alone. All experts have the same values, in memory of their own.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use common::checkpoint::Tensor as Stored;
use common::device::cuda::{Float16, Gpu};
use common::device::{Device, Tensor, Vector};
use common::kernels::glu::{self, Activation};
use common::kernels::grouped_linear::{self, GroupedLinear};
use common::kernels::linear::{AdapterSlot, Linear, Parameters, Projection, Weight};
use common::kernels::routing::{self, RoutingSpec, Rows};
use common::nf4::{Quantized, Scheme};
use common::{Error, Result, cli};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// R of the adapters.
const RANK: usize = 16;
/// Runs of an operation that are measured together, after some that are not.
const RUNS: usize = 10;
const WARM_UP: usize = 2;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::warn(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let numbers: std::result::Result<Vec<usize>, _> =
        std::env::args().skip(1).map(|text| text.parse()).collect();
    let numbers = numbers.map_err(|_| Error::usage("expected EXPERTS CHOSEN WIDTH HIDDEN TOKENS..."))?;
    let (experts, chosen, width, hidden, tokens) = match numbers.as_slice() {
        [] => (128, 8, 2048, 768, &[2480, 8192, 16_384, 1][..]),
        [experts, chosen, width, hidden, tokens @ ..] => (*experts, *chosen, *width, *hidden, tokens),
        _ => return Err(Error::usage("expected EXPERTS CHOSEN WIDTH HIDDEN TOKENS...")),
    };
    let spec = RoutingSpec { experts, chosen, normalized: true };
    let mut bench = Bench::new(spec, width, hidden)?;
    for &tokens in tokens {
        let result = bench.measure(tokens)?;
        cli::answer(result)?;
    }
    Ok(())
}

/// Layers of one kind of weights.
struct Experts {
    gate_up: GroupedLinear,
    down: GroupedLinear,
}

struct Bench {
    gpu: Arc<Gpu>,
    device: Device,
    random: ChaCha8Rng,
    spec: RoutingSpec,
    width: usize,
    hidden: usize,
    router: Linear,
    dense: Experts,
    quantized: Experts,
    parameters: Vector,
}

impl Bench {
    fn new(spec: RoutingSpec, width: usize, hidden: usize) -> Result<Self> {
        let gpu = Gpu::open(0, Float16::Bf16)?;
        let device = Device::Cuda(gpu.clone());
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut values = |len: usize, bound: f32| -> Vec<f32> {
            (0..len).map(|_| random.random_range(-bound..bound)).collect()
        };
        let experts = spec.experts;
        let mut matrix = |n: usize, k: usize| Stored::from_f32("w", vec![n, k], &values(n * k, 0.04));
        let weight = Weight::Dense(matrix(experts, width));
        let router =
            Linear::new(vec![Projection { name: "gate".into(), weight, bias: None, adapter: None }])?;
        let shapes = [[2 * hidden, width], [width, hidden]];
        let weights = shapes.map(|[n, k]| matrix(n, k));
        let mut len = 0;
        let slots = shapes.map(|[n, k]| {
            let a = len..len + experts * RANK * k;
            let b = a.end..a.end + experts * n * RANK;
            len = b.end;
            AdapterSlot { rank: RANK, scale: 2.0, a, b }
        });
        let parameters = Vector::from_vec(values(len, 0.04), &device)?;
        let layers = |weights: [Weight; 2]| -> Result<Experts> {
            let [gate_up, down] = weights;
            let layer = |weight: Weight, slot: &AdapterSlot| -> Result<GroupedLinear> {
                let layer = GroupedLinear::new("experts".into(), vec![vec![weight]; experts])?;
                let mut layer = layer.to_device(&device)?;
                layer.adapter = Some(slot.clone());
                layer.refresh_adapters(&parameters)?;
                Ok(layer)
            };
            Ok(Experts { gate_up: layer(gate_up, &slots[0])?, down: layer(down, &slots[1])? })
        };
        let [gate_up, down] = &weights;
        let quantize = |stored: &Stored| {
            Ok::<_, Error>(Weight::Quantized(Quantized::quantize(stored, Scheme::default())?))
        };
        let quantized = layers([quantize(gate_up)?, quantize(down)?])?;
        let dense = layers(weights.map(Weight::Dense))?;
        let router = router.to_device(&device)?;
        Ok(Self { gpu, device, random, spec, width, hidden, router, dense, quantized, parameters })
    }

    fn matrix(&mut self, rows: usize, columns: usize) -> Result<Tensor> {
        let values = (0..rows * columns).map(|_| self.random.random_range(-1.0f32..1.0)).collect();
        Tensor::on(&self.device, values, &[rows, columns])
    }

    fn measure(&mut self, tokens: usize) -> Result<Value> {
        let (x, dy) = (self.matrix(tokens, self.width)?, self.matrix(tokens, self.width)?);
        let routing = routing::forward(&x, &self.router, self.spec)?;
        let weights = routing.weights();
        let mut sums = Vector::zeros(self.parameters.len(), &self.device)?;
        let parameters = Parameters::from(&self.parameters);
        let mut result = Map::from_iter([("tokens".to_owned(), json!(tokens))]);
        let gpu = Arc::clone(&self.gpu);
        let mut time = |name: &str, flops: usize, operation: &mut dyn FnMut() -> Result<()>| -> Result<()> {
            (0..WARM_UP).try_for_each(|_| operation())?;
            gpu.synchronize()?;
            let begun = Instant::now();
            (0..RUNS).try_for_each(|_| operation())?;
            gpu.synchronize()?;
            let seconds = begun.elapsed().as_secs_f64() / RUNS as f64;
            result.insert(format!("{name} ms"), json!((seconds * 1e6).round() / 1e3));
            if flops > 0 {
                result.insert(format!("{name} TFLOP/s"), json!((flops as f64 / seconds / 1e12).round()));
            }
            Ok(())
        };
        let flops = 2 * routing.slots() * self.hidden * self.width;
        time("routing", 0, &mut || routing::forward(&x, &self.router, self.spec).map(drop))?;
        for (kind, experts) in [("bf16", &self.dense), ("nf4", &self.quantized)] {
            let Experts { gate_up, down } = experts;
            let forward = |from: (&Tensor, Rows), layer: &GroupedLinear, parameters| {
                grouped_linear::forward(from, layer, &routing, parameters).map(|output| output.y)
            };
            let backward = |from: (&Tensor, Rows), layer: &GroupedLinear| {
                grouped_linear::backward(from, layer, &routing, parameters)
            };
            let from_x = (&x, Rows::Tokens);
            time(&format!("{kind} gate_up"), 2 * flops, &mut || forward(from_x, gate_up, None).map(drop))?;
            time(&format!("{kind} gate_up + adapter"), 2 * flops, &mut || {
                forward(from_x, gate_up, Some(parameters)).map(drop)
            })?;
            let y = forward(from_x, gate_up, None)?;
            let h = glu::forward_weighted(&y, Activation::Silu, weights)?;
            time(&format!("{kind} down"), flops, &mut || forward((&h, Rows::Slots), down, None).map(drop))?;
            time(&format!("{kind} down + adapter"), flops, &mut || {
                forward((&h, Rows::Slots), down, Some(parameters)).map(drop)
            })?;
            if tokens < self.spec.chosen {
                continue;
            }
            time(&format!("{kind} d down + adapter"), flops, &mut || {
                backward((&dy, Rows::Tokens), down).map(drop)
            })?;
            time(&format!("{kind} d gate_up + adapter"), 2 * flops, &mut || {
                backward((&y, Rows::Slots), gate_up).map(drop)
            })?;
            if kind == "nf4" {
                continue;
            }
            let of_down = backward((&dy, Rows::Tokens), down)?;
            time("d adapters of down", 0, &mut || {
                let (of_y, of_x) =
                    ((&dy, Rows::Tokens, of_down.d_lora_hidden.as_ref()), (&h, Rows::Slots, None));
                grouped_linear::adapter_gradients(of_y, of_x, down, &routing, parameters, &mut sums)
            })?;
            let of_gate_up = backward((&y, Rows::Slots), gate_up)?;
            time("d adapters of gate_up", 0, &mut || {
                let (of_y, of_x) =
                    ((&y, Rows::Slots, of_gate_up.d_lora_hidden.as_ref()), (&x, Rows::Tokens, None));
                grouped_linear::adapter_gradients(of_y, of_x, gate_up, &routing, parameters, &mut sums)
            })?;
            time("glu", 0, &mut || glu::forward_weighted(&y, Activation::Silu, weights).map(drop))?;
            time("d glu", 0, &mut || {
                glu::backward_weighted(h.clone(), y.clone(), Activation::Silu, weights).map(drop)
            })?;
            time("sum of slots", 0, &mut || {
                routing::sum_slots(&of_gate_up.dx, &routing, Some(&x)).map(drop)
            })?;
            let dweights = routing.weights();
            time("d routing", 0, &mut || {
                routing::backward(dweights, None, &routing, &self.router, dy.clone()).map(drop)
            })?;
        }
        Ok(Value::Object(result))
    }
}
