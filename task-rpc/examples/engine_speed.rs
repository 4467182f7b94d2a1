//! How long the engine takes: `cargo run --release --example engine_speed FILE…`.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use task_proto::stats::{Format, Missing, Query, Source};
use task_worker::engine::{Budget, Engine, Ingests, Simd, Statistic};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in std::env::args().skip(1) {
        let ingests = Ingests::new(Engine::new(Simd::best(), Budget::new(None)), None);
        let file = Arc::new(OwnedFd::from(File::open(&path)?).into());
        let source = Source::Attached { attached: 0, format: Format::Text };
        let query = Query { sources: vec![source], missing: Missing::Error };
        let began = Instant::now();
        let data = ingests.data(query, Statistic::Mean, |_| Some(Arc::clone(&file))).await?;
        println!("{path}: {} numbers in {:?}", data.sequence().count(), began.elapsed());
        let began = Instant::now();
        println!("  median {} in {:?}", data.median().await?.value, began.elapsed());
        let began = Instant::now();
        println!("  {} modes in {:?}", data.modes().await?.total, began.elapsed());
    }
    Ok(())
}
