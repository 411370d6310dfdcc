//! Steps per second of the training program on an export, stage by stage.
//!
//! `cargo run --release --example training_speed -- MODEL.onnx [rows] [length]`

use std::time::Instant;

use gelora::onnx::Model;
use gelora::train::{AdapterSpec, LoraInit, Program, ProgramOptions};
use tch::{Device, Kind, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: training_speed MODEL.onnx [rows] [length]")?;
    let rows: i64 = arguments.next().map_or(Ok(32), |a| a.parse())?;
    let length: i64 = arguments.next().map_or(Ok(20), |a| a.parse())?;
    let model = Model::open(&path)?;
    let started = Instant::now();
    let mut program = Program::new(&model, Device::Cpu, ProgramOptions::default())?;
    println!("opened in {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    program.attach(adapters(&model)?)?;
    let ids = Tensor::f_randint_low(5, 1000, [rows, length], (Kind::Int64, Device::Cpu))?;
    let ones = Tensor::f_ones([rows, length], (Kind::Int64, Device::Cpu))?;
    let zeros = Tensor::f_zeros([rows, length], (Kind::Int64, Device::Cpu))?;
    let inputs = [("input_ids", ids), ("attention_mask", ones), ("token_type_ids", zeros)].map(|(n, t)| (n, t));
    let trained: Vec<Tensor> = program.trainables().into_iter().map(|t| t.tensor).collect();
    let started = Instant::now();
    program.run(&inputs, &["logits"])?;
    println!("first run in {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    println!("{:?}", program.linear_choices());
    let forward = time(20, || {
        tch::no_grad(|| program.run(&inputs, &["logits"]))?;
        Ok(())
    })?;
    println!("forward without gradients: {:.1} ms", forward * 1e3);
    let step = time(20, || {
        let logits = &program.run(&inputs, &["logits"])?[0];
        let loss = logits.f_sum(Kind::Float)?;
        Tensor::f_run_backward(&[&loss], &trained, false, false)?;
        Ok(())
    })?;
    println!("forward and backward: {:.1} ms, {:.2} steps/s", step * 1e3, 1.0 / step);
    Ok(())
}

/// The best of several runs, in seconds.
fn time(
    count: usize,
    mut run: impl FnMut() -> Result<(), Box<dyn std::error::Error>>,
) -> Result<f64, Box<dyn std::error::Error>> {
    let mut best = f64::INFINITY;
    for _ in 0..count {
        let started = Instant::now();
        run()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Rank 8 on every square weight of a matrix product.
fn adapters(model: &Model) -> Result<Vec<AdapterSpec>, Box<dyn std::error::Error>> {
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
    println!("{} adapters", adapters.len());
    Ok(adapters)
}
