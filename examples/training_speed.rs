//! Training steps per second on an export, with the program's passes switched on one after the other.
//!
//! `cargo run --release --example training_speed -- MODEL.onnx [seconds per stage]`
//!
//! Random token ids in a padded batch; rank 8 on every square weight; AdamW is not part of the step.

use std::time::Instant;

use gelora::onnx::Model;
use gelora::train::{AdapterSpec, LinearBackend, LoraInit, Program, ProgramOptions};
use tch::{Device, Kind, Tensor};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Lengths of 32 sentences of CoLA, in file order.
const LENGTHS: [i64; 32] =
    [15, 13, 9, 15, 14, 9, 8, 7, 10, 7, 9, 9, 8, 8, 9, 8, 8, 14, 15, 8, 9, 11, 12, 10, 9, 12, 20, 13, 11, 22, 9, 12];

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: training_speed MODEL.onnx [seconds per stage]")?;
    let seconds: f64 = arguments.next().map_or(Ok(3.0), |a| a.parse())?;
    let model = Model::open(&path)?;
    let inputs = batch()?;
    let plain = ProgramOptions {
        linear: LinearBackend::Torch,
        fuse: false,
        narrow: false,
        pack: false,
        ..ProgramOptions::default()
    };
    let fused = ProgramOptions { fuse: true, ..plain.clone() };
    let fast = ProgramOptions { linear: LinearBackend::Auto, ..fused.clone() };
    let narrowed = ProgramOptions { narrow: true, ..fast.clone() };
    let stages = [
        ("node by node", plain),
        ("patterns fused", fused),
        ("linear layers by trial", fast),
        ("only what the head reads", narrowed.clone()),
        ("real tokens only", ProgramOptions { pack: true, ..narrowed }),
    ];
    println!("{:<28}{:>12}{:>12}{:>12}", "", "forward ms", "step ms", "steps/s");
    for (name, options) in stages {
        let mut program = Program::new(&model, Device::Cpu, options)?;
        program.attach(adapters(&model)?)?;
        let trained: Vec<Tensor> = program.trainables().into_iter().map(|t| t.tensor).collect();
        let forward = time(seconds / 3.0, || {
            tch::no_grad(|| program.run(&inputs, &["logits"]))?;
            Ok(())
        })?;
        let step = time(seconds, || {
            let logits = &program.run(&inputs, &["logits"])?[0];
            let loss = logits.f_sum(Kind::Float)?;
            Tensor::f_run_backward(&[&loss], &trained, false, false)?;
            Ok(())
        })?;
        println!("{name:<28}{:>12.1}{:>12.1}{:>12.2}", forward * 1e3, step * 1e3, 1.0 / step);
    }
    Ok(())
}

fn batch() -> Outcome<[(&'static str, Tensor); 3]> {
    let longest = LENGTHS.iter().copied().max().unwrap_or(1);
    let shape = [LENGTHS.len() as i64, longest];
    let options = (Kind::Int64, Device::Cpu);
    let places = Tensor::f_arange(longest, options)?.f_unsqueeze(0)?;
    let mask = places.f_lt_tensor(&Tensor::f_from_slice(&LENGTHS)?.f_unsqueeze(1)?)?.f_to_kind(Kind::Int64)?;
    let ids = Tensor::f_randint_low(5, 1000, shape, options)?.f_mul(&mask)?;
    Ok([("input_ids", ids), ("attention_mask", mask), ("token_type_ids", Tensor::f_zeros(shape, options)?)])
}

/// The median time of a run, in seconds.
fn time(seconds: f64, mut run: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    run()?;
    let began = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || began.elapsed().as_secs_f64() < seconds {
        let started = Instant::now();
        run()?;
        times.push(started.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Rank 8 on every square weight of a matrix product.
fn adapters(model: &Model) -> Outcome<Vec<AdapterSpec>> {
    let mut init = LoraInit::new(0);
    let mut adapters = Vec::new();
    for node in model.graph.nodes.iter().filter(|node| node.is("MatMul")) {
        let weight = node.inputs.get(1).and_then(|name| model.graph.initializers.iter().find(|t| t.name == *name));
        if let Some(weight) = weight
            && let [inner, outer] = weight.dims.as_slice()
            && inner == outer
        {
            adapters.push(init.adapter(&weight.name, (*inner, *outer), 8, 16.0)?);
        }
    }
    Ok(adapters)
}
