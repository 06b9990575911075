# Stands in for redis:7.4-bookworm where no registry of images can be reached: Debian's own server, with that image's user.
FROM python:3.11-slim-bookworm
LABEL relais.stand-in=true
RUN apt-get update && apt-get install -y --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/* /var/cache/apt/* && \
    usermod --uid 999 redis && groupmod --gid 999 redis && install -d -o redis -g redis /data
WORKDIR /data
CMD ["redis-server"]
