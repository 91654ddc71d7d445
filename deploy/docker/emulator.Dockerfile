# The emulator of the Gemini API alone, for CI: docker build -t agm-emulator -f deploy/docker/emulator.Dockerfile .
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY agm agm
COPY twisted twisted
COPY docs/agm.1 docs/agm.1
RUN python -m venv /opt/agm && /opt/agm/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM python:3.11-slim
COPY --from=build /opt/agm /opt/agm
ENV PATH=/opt/agm/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8046
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8046/_emu/health', timeout=2)"]
STOPSIGNAL SIGTERM
# Whoever reaches it may do anything with it: it is meant for a network of tests.
ENTRYPOINT ["agm-emulator", "--host", "0.0.0.0"]
