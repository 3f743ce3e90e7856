# All three programs in one small image: `hookyard` (everything in one process, and the command
# line), `ingress` and `worker`. docker-compose.yml shows the distributed profile.
#
#   docker build -t hookyard .
#   docker run -p 8080:8080 -v hookyard:/data hookyard

FROM rust:1.95-bookworm AS builder
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --profile dist -p hookyard -p hookyard-ingress -p hookyard-worker --bins \
    && mkdir /out \
    && cp target/dist/hookyard target/dist/ingress target/dist/worker /out/

FROM debian:bookworm-slim
# Destinations are called over TLS; the certificates of authorities are not in the slim image.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --home-dir /data --shell /usr/sbin/nologin hookyard \
    && install -d -o hookyard -g hookyard -m 700 /data
COPY --from=builder /out/ /usr/local/bin/

USER 10001:10001
WORKDIR /data
VOLUME /data
# One arena of glibc's allocator for all threads: some 9 MiB less at the same rate (docs/benchmarks.md).
ENV MALLOC_ARENA_MAX=1 \
    HOOKYARD_DATA_DIR=/data \
    HOOKYARD_LISTEN=0.0.0.0:8080 \
    HOOKYARD_LOG_FORMAT=json
EXPOSE 8080
# Draining takes up to 30 s: stop with `docker stop -t 40`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["hookyard", "healthcheck"]
CMD ["hookyard"]
