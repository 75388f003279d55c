//! A Redis that takes seconds to load its data.

use super::redis::{PrivateRedis, private_redis};

/// So many keys are loaded, each after a pause.
const KEYS: usize = 4000;
const PAUSE_MICROSECONDS: &str = "5000";

/// A server that loads after each restart until it is told to come to an end, or for 20 seconds.
pub struct SlowToLoad {
    pub redis: PrivateRedis,
    args: Vec<String>,
}

impl SlowToLoad {
    pub fn new(args: &[&str]) -> Self {
        let redis = private_redis(args);
        let mut filler = redis::pipe();
        for number in 0..KEYS {
            filler.set(format!("filler:{number}"), "x".repeat(40)).ignore();
        }
        filler.exec(&mut redis.raw()).unwrap();
        Self { redis, args: args.iter().map(|arg| (*arg).to_owned()).collect() }
    }

    /// Saves all data, and restarts the server, which answers when this returns, and loads.
    pub async fn restart(&mut self) {
        redis::cmd("SAVE").exec(&mut self.redis.raw()).unwrap();
        self.redis.kill().await;
        let mut args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        args.extend(["--key-load-delay", PAUSE_MICROSECONDS]);
        // How often it answers meanwhile.
        args.extend(["--loading-process-events-interval-bytes", "1024"]);
        self.redis.start_with(&args);
        assert!(is_loading(&self.redis), "it has loaded its data at once");
    }

    /// Loads the rest at once.
    pub fn load(&self) {
        redis::cmd("CONFIG").arg(&["SET", "key-load-delay", "0"]).exec(&mut self.redis.raw()).unwrap();
    }
}

/// Whether the server loads its data.
pub fn is_loading(redis: &PrivateRedis) -> bool {
    let info: String = redis::cmd("INFO").arg("persistence").query(&mut redis.raw()).unwrap();
    info.contains("loading:1")
}
