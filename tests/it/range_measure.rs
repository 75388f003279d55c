use crate::support::clips::made;
use crate::support::objects::{ObjectServer, put_input};
use tcoder::storage::Bucket;
use tcoder::storage::range::{RangeServer, RangeSupport};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn measure() {
    let base = "-f lavfi -i testsrc2=s=1920x1080:r=25:d=120 -f lavfi -i sine=d=120 -c:v libx264 -preset ultrafast -b:v 8M -g 50 -pix_fmt yuv420p -c:a aac -b:a 128k";
    let end = made("m-end.mp4", base);
    let copy = |name: &str, a: &str| made(name, &format!("-i {} -c copy {a}", end.display()));
    let files = [
        end.clone(),
        copy("m-front.mp4", "-movflags +faststart"),
        copy("m-frag.mp4", "-movflags +frag_keyframe+empty_moov+default_base_moof -frag_duration 2000000"),
        copy("m.mkv", "-f matroska"),
    ];
    let objects = ObjectServer::start().await;
    let options = std::env::var("OPTS").unwrap_or_default();
    let shared = std::env::var("SHARED").is_ok();
    for file in files {
        let size = std::fs::metadata(&file).unwrap().len();
        put_input(&objects.config, "inputs/m", std::fs::read(&file).unwrap()).await;
        let storage = objects.storage();
        let fresh = async || {
            let RangeSupport::Supported(s) =
                storage.open_ranges(Bucket::Input, &"inputs/m".parse().unwrap()).await.unwrap()
            else {
                panic!()
            };
            RangeServer::start(s).unwrap()
        };
        let run = async |server: &RangeServer, args: String| {
            let t = std::time::Instant::now();
            let done = tokio::process::Command::new("ffmpeg")
                .args(["-nostdin", "-v", "error"])
                .args(args.replace("URL", server.url().as_str()).split_whitespace())
                .output()
                .await
                .unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            if !done.stderr.is_empty() {
                eprintln!("{}", String::from_utf8_lossy(&done.stderr));
            }
            t.elapsed().as_secs_f64()
        };
        let name = file.file_name().unwrap().to_str().unwrap()[17..].to_owned();
        let (mut read, mut req, mut served, mut secs) = (0, 0, 0, 0.0);
        let mut server = fresh().await;
        for k in 0..8 {
            if !shared {
                server = fresh().await;
            }
            let (from, to) = (k * 15, 15);
            let ss = (f64::from(from) - 0.5).max(0.0);
            let lead = f64::from(from) - ss;
            let until = lead + f64::from(to);
            secs += run(&server, format!("{options} -ss {ss} -noaccurate_seek -i URL -an -filter_complex trim=start={lead}:end={until} -f null -")).await;
            let c = server.counts();
            if !shared || k == 7 {
                read += c.bytes_read;
                req += c.requests;
                served += c.bytes_served;
            }
        }
        eprintln!(
            "{name} {:.1} MB: chunks {:.3}x of it, served {:.3}x, {req} requests, {secs:.1} s",
            size as f64 / 1e6,
            read as f64 / size as f64,
            served as f64 / size as f64
        );
        let server = fresh().await;
        let secs = run(&server, format!("{options} -i URL -vn -c:a aac -f null -")).await;
        let c = server.counts();
        eprintln!(
            "{name}: audio {:.3}x, served {:.3}x, {} requests, {secs:.1} s",
            c.bytes_read as f64 / size as f64,
            c.bytes_served as f64 / size as f64,
            c.requests
        );
        server.stop().await;
    }
}
