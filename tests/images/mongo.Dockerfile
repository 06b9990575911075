# Stands in for mongo:8.0 where no registry of images can be reached: SecantusDB's server (GPL-2.0), which speaks MongoDB's
# protocol, in an image that is built for the test and thrown away. It knows no passwords.
FROM python:3.11-slim-bookworm
LABEL relais.stand-in=true
COPY requirements/embedded-mongo.txt /tmp/
RUN --mount=type=cache,target=/root/.cache/pip python3 -m venv /opt/secantus && \
    /opt/secantus/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r /tmp/embedded-mongo.txt && \
    find /opt/secantus -name secantusd-rs -exec ln -s {} /usr/local/bin/secantusd-rs \; && \
    groupadd --gid 999 mongodb && useradd --uid 999 --gid 999 mongodb && install -d -o mongodb -g mongodb /data/db /data/configdb
USER 999:999
CMD ["secantusd-rs", "--host", "0.0.0.0", "--port", "27017", "--storage-path", "/data/db/secantus", "--log-file-max", "128MB", "--cache-size", "256M"]
