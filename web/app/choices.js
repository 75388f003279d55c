// What can be asked for, with a sentence on each.

export const presets = [
  { value: "hls-adaptive", name: "Adaptive streaming", text: "HLS that switches quality with the viewer's connection. Best for a player on a page." },
  { value: "web-optimized", name: "MP4 for the web", text: "One file a quality that starts playing while it loads. Best for downloads and simple pages." },
  { value: "hls", name: "Plain HLS", text: "One playlist a quality, for players that want to choose themselves." },
  { value: "default", name: "As it is", text: "Without a quality the picture is copied, not encoded: fast, and of the same size. With one, MP4 at a fixed bitrate." },
];

export const qualities = [
  { value: "2160p", text: "4K, 12 Mbit/s" },
  { value: "1440p", text: "6 Mbit/s" },
  { value: "1080p", text: "Full HD, 3 Mbit/s" },
  { value: "720p", text: "HD, 1.5 Mbit/s" },
  { value: "480p", text: "800 kbit/s" },
  { value: "360p", text: "phones, 400 kbit/s" },
  { value: "240p", text: "250 kbit/s" },
  { value: "144p", text: "poor connections, 100 kbit/s" },
];

export const stills = [
  { value: "poster", name: "Poster", text: "A picture of the beginning, for the player and for links." },
  { value: "storyboard", name: "Preview pictures", text: "Small pictures that show the place under a seek bar." },
];

/** What a preset makes where nothing is chosen. */
export const usual = {
  "hls-adaptive": "1080p, 720p, 360p and 144p, as far as the video has them",
  "web-optimized": "720p",
  hls: "720p",
  default: "a copy of the streams",
};
