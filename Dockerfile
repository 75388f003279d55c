# Two images out of one build:
#   docker build -t tcoder-worker .                          with FFmpeg; runs `tcoder worker`
#   docker build -t tcoder-controller --target controller .  without; runs `tcoder controller`, or `api`
# All stages are Debian 13: a binary needs the glibc it was linked with, or a newer one. The digests are those of the images
# for all architectures, and Dependabot raises them.

FROM rust:1.95.0-slim-trixie@sha256:e14e87345b4d5964ddcc3491d27ee046a0f23820f340c3c1e24da6880141f7c0 AS build
WORKDIR /src
COPY . .
# The caches stay with the builder, so that dependencies are compiled once. Cargo goes by the times of
# files, and those of another checkout may be older than the cache: the touch has our own code built anew.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    touch src/lib.rs src/main.rs \
    && cargo build --locked --release --bin tcoder \
    && install -D target/release/tcoder /out/tcoder

# glibc, libgcc and the CA certificates: what the binary and HTTPS need, and no shell.
FROM gcr.io/distroless/cc-debian13:nonroot@sha256:e792ab3d241a468a4fd7519ddbbebe66b49b5f365771716ea688ad40b6c6f1c2 AS controller
COPY --from=build /out/tcoder /usr/local/bin/tcoder
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/tcoder"]
CMD ["controller"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tcoder controller" \
      org.opencontainers.image.description="The roles of tcoder that need no FFmpeg: controller and API" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"

FROM debian:trixie-slim@sha256:a29215f6a35e51e22adffa17f89e9d2ef06214e64a2bad10d765c46aea49f11f AS worker
# Debian's FFmpeg brings Mesa's drivers for video on a screen, with LLVM and Z3. They are loaded only when
# a window is opened, so they stay out: 190 MB less. Should FFmpeg itself ever need one, ldd ends the build.
# No versions are pinned: each build takes Debian's security fixes.
# hadolint ignore=DL3008
RUN printf 'path-exclude=/usr/lib/*/%s\n' 'libLLVM*' 'libgallium*' 'libz3*' 'dri/*' \
        > /etc/dpkg/dpkg.cfg.d/no-screen \
    && apt-get update \
    && apt-get upgrade -y \
    && apt-get install -y --no-install-recommends ca-certificates ffmpeg \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \
    && ldd /usr/bin/ffmpeg /usr/bin/ffprobe > /tmp/libraries \
    && ! grep 'not found' /tmp/libraries \
    && rm /tmp/libraries \
    && groupadd --gid 65532 tcoder \
    && useradd --key UID_MAX=65532 --uid 65532 --gid tcoder --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin tcoder
COPY --from=build /out/tcoder /usr/local/bin/tcoder
# By number, so that Kubernetes can see it is not root. Videos in work lie in /tmp (WORKER_SCRATCH_DIR).
USER 65532:65532
WORKDIR /tmp
# No init in front: `tcoder worker` handles SIGTERM and SIGINT itself, starts FFmpeg directly and waits for
# it, and FFmpeg starts nothing, so nobody is left to reap. On Fly the machine's own init comes first.
ENTRYPOINT ["/usr/local/bin/tcoder"]
CMD ["worker"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tcoder worker" \
      org.opencontainers.image.description="A tcoder worker with FFmpeg" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
