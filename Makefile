# Everything starts here; python3 (3.11 or newer), pip and make are all that is needed. `make demo` runs the main job, `make test` the tests.

PYTHON ?= python3
UV := .uv/bin/uv
VENV := .venv
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header

# Without bytecode each Dagster process needs 11 CPU seconds to start instead of 3; uv compiles it only when told to.
export UV_COMPILE_BYTECODE := 1
export UV_HTTP_TIMEOUT := 120
# Settings of the machine that would turn the bootstrap's `--target` into an error or a warning.
export PIP_USER := 0
export PIP_ROOT_USER_ACTION := ignore
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# uv doesn't read pip's configuration: a mirror that is set there holds for both.
USE_PIPS_MIRROR := mirror="$${PIP_INDEX_URL:-$$($(PYTHON) -m pip config get global.index-url 2>/dev/null)}"; \
	if [ -z "$$UV_DEFAULT_INDEX" ] && [ -n "$$mirror" ]; then export UV_DEFAULT_INDEX="$$mirror"; fi
INSTALL := $(UV) pip install --quiet --python $(VENV)/bin/python

.PHONY: help demo dev test check lint bench chaos screenshots lock clean python-version
.DELETE_ON_ERROR:

help:
	@echo 'make demo    安装并启动整套服务，生成演示数据，通过 Dagster 预热一家门店，并播放会员事件（ONCE=1：完成后退出）'
	@echo 'make dev     安装并启动整套服务'
	@echo 'make test    安装并运行测试'
	@echo 'make check   代码检查、类型、模块边界与测试（与 CI 相同）'
	@echo 'make bench   性能测量，结果见 benchmarks/'
	@echo 'make chaos   运行中的故障（SEED=数字，ONLY=场景），结果见 docs/reliability.md'
	@echo 'make screenshots  控制台各页面的截图，写入 docs/screenshots/（需要 Chromium，见 .ci/system-packages）'
	@echo 'make lock    重新锁定依赖版本'
	@echo 'make clean   删除环境、缓存与演示数据'

# `exec`, so that the process's parent is make itself: it stops when make is killed.
demo: $(RUNTIME)
	@exec $(VENV)/bin/zqyy-ai demo --stop-with-parent

dev: $(RUNTIME)
	@exec $(VENV)/bin/zqyy-ai dev --stop-with-parent

test: $(DEV)
	@$(VENV)/bin/python -m pytest --numprocesses=logical --maxprocesses=8

lint: $(DEV)
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check --quiet
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-cache --no-logo

check: lint
	@$(MAKE) --no-print-directory test

bench: $(DEV)
	@$(VENV)/bin/python -m benchmarks

chaos: $(DEV)
	@$(VENV)/bin/python -m benchmarks.chaos $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

screenshots: $(DEV)
	@$(VENV)/bin/python -W ignore -m zqyy_ai_tests.admin.console.screenshots

lock: $(UV)
	@$(USE_PIPS_MIRROR); \
	$(LOCK) pyproject.toml --group build -o requirements/runtime.txt && \
	$(LOCK) pyproject.toml --group build --group dev -c requirements/runtime.txt -o requirements/dev.txt && \
	$(LOCK) requirements/uv.in -o requirements/uv.txt

clean:
	@if [ -x $(VENV)/bin/zqyy-ai ] && $(VENV)/bin/zqyy-ai env >/dev/null 2>&1; then echo '服务正在运行，请先停止它' >&2; exit 1; fi
	rm -rf $(VENV) .uv .zqyy .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

python-version:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "需要 Python 3.11 或更新版本，而 $(PYTHON) 是 $$($(PYTHON) --version 2>&1)；可用 make $(MAKECMDGOALS) PYTHON=/path/to/python3.11 指定" >&2; \
		exit 1; }

$(UV): requirements/uv.txt | python-version
	@echo '· 安装 uv'
	@rm -rf .uv
	@$(PYTHON) -m pip install --quiet --target .uv --require-hashes -r requirements/uv.txt
	@touch $(UV)

$(VENV)/bin/python: | python-version $(UV)
	@$(UV) venv --quiet --clear --no-project --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)

$(RUNTIME): requirements/runtime.txt pyproject.toml | $(VENV)/bin/python $(UV)
	@echo '· 安装依赖（首次需要一两分钟）'
	@$(USE_PIPS_MIRROR); $(INSTALL) --require-hashes -r requirements/runtime.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): requirements/dev.txt pyproject.toml | $(VENV)/bin/python $(UV)
	@echo '· 安装依赖与开发工具（首次需要一两分钟）'
	@$(USE_PIPS_MIRROR); $(INSTALL) --require-hashes -r requirements/dev.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@ $(RUNTIME)
