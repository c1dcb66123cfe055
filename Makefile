# ecstats: the extension (PGXS), the pusher (its own Makefile) and what proves them.
#
#   make                build the extension and the pusher
#   make install        install both (as root)
#   make demo           the main job, end to end, in ./.demo     (make demo-stop)
#   make check          set-up, then every test
#   make bench          measured ratios, in some minutes (bench/README.md)
#   make fuzz           the fuzz targets, FUZZ_SECONDS each (test/fuzz/run.sh)
#   make soak           random changes with random seeds, for SOAK_MINUTES (test/soak.sh)

EXTENSION = ecstats
MODULE_big = ecstats
DATA = ecstats--1.0.sql

OBJS = \
	src/ecstats.o \
	src/encoding.o \
	src/errors.o \
	src/srf.o \
	src/day.o \
	src/day_mark.o \
	src/drop_guard.o \
	src/intake_text.o \
	src/jsonb_get.o \
	src/event.o \
	src/event_days.o \
	src/event_json.o \
	src/event_store.o \
	src/order.o \
	src/order_json.o \
	src/rollup.o \
	src/rollup_table.o \
	src/rollup_pairs.o \
	src/rollup_block.o \
	src/rollup_unpack.o \
	src/rollup_sort.o \
	src/rollup_first.o \
	src/rollup_money.o \
	src/rollup_user.o \
	src/rollup_event.o \
	src/rollup_heap.o \
	src/rollup_event_put.o \
	src/rollup_parallel.o \
	src/rollup_order.o \
	src/rollup_order_buyer.o \
	src/rollup_order_put.o \
	src/rollup_days.o \
	src/rollup_period.o \
	src/activity.o \
	src/activity_points.o \
	src/activity_rank.o \
	src/activity_cohort.o \
	src/activity_tag.o \
	src/activity_tag_match.o \
	src/cron_expr.o \
	src/cron_search.o \
	src/cron.o \
	src/job.o \
	src/job_worker.o \
	src/template.o \
	src/template_date.o \
	src/template_document.o \
	src/template_error.o \
	src/template_filter.o \
	src/template_jsonb.o \
	src/hmac.o \
	src/source.o \
	src/source_lock.o \
	src/source_map.o \
	src/landing.o

# The load order of the install script. C declarations come before tables, so that CHECKs can use
# them; functions come after tables, so that an upgrade can replace them wholesale.
SQL_PIECES = \
	sql/00_header.sql \
	sql/10_config.sql \
	sql/11_day.sql \
	sql/12_intake.sql \
	sql/20_event_c.sql \
	sql/21_order_c.sql \
	sql/22_rollup_c.sql \
	sql/23_cron_c.sql \
	sql/24_template_c.sql \
	sql/25_hmac_c.sql \
	sql/26_job_c.sql \
	sql/26_source_c.sql \
	sql/27_activity_c.sql \
	sql/27_activity_tag_c.sql \
	sql/30_event_tables.sql \
	sql/31_order_tables.sql \
	sql/31_source_tables.sql \
	sql/32_rollup_tables.sql \
	sql/32_rollup_period_tables.sql \
	sql/32_rollup_buyer_tables.sql \
	sql/32_activity_tables.sql \
	sql/32_activity_tag_tables.sql \
	sql/33_job_tables.sql \
	sql/34_report_tables.sql \
	sql/35_delivery_tables.sql \
	sql/36_channel_kinds.sql \
	sql/37_report_rows.sql \
	sql/37_report_recall_rows.sql \
	sql/40_event.sql \
	sql/41_event_partition.sql \
	sql/42_order.sql \
	sql/42_source_check.sql \
	sql/42_source.sql \
	sql/42_source_mask.sql \
	sql/42_source_http.sql \
	sql/43_rollup.sql \
	sql/43_rollup_users.sql \
	sql/43_rollup_buyers.sql \
	sql/43_rollup_close.sql \
	sql/43_rollup_views.sql \
	sql/43_rollup_partition.sql \
	sql/43_rollup_period.sql \
	sql/43_activity.sql \
	sql/43_activity_tag.sql \
	sql/44_job.sql \
	sql/44_job_run.sql \
	sql/44_job_claim.sql \
	sql/44_job_tick.sql \
	sql/44_job_cron.sql \
	sql/45_report_data.sql \
	sql/45_report_activity.sql \
	sql/45_report.sql \
	sql/45_report_message.sql \
	sql/46_channel.sql \
	sql/47_delivery.sql \
	sql/48_delivery_answer.sql \
	sql/49_delivery_claim.sql \
	sql/49_delivery_settle.sql \
	sql/50_pipeline.sql \
	sql/50_pipeline_score.sql \
	sql/51_rebuild.sql \
	sql/51_verify_day.sql \
	sql/51_verify_range.sql \
	sql/51_verify.sql \
	sql/52_pipeline_audience.sql \
	sql/52_pipeline_report.sql \
	sql/53_pipeline_job.sql \
	sql/54_maintain.sql \
	sql/55_pipeline_source.sql \
	sql/55_pipeline_order.sql \
	sql/55_pipeline_page.sql \
	sql/55_pipeline_fetch.sql \
	sql/56_pipeline_cdc.sql \
	sql/57_pipeline_landing.sql \
	sql/60_status.sql \
	sql/90_grants.sql \
	sql/91_dump.sql

PG_CONFIG ?= pg_config
PG_CPPFLAGS = -I$(srcdir)/src
# PostgreSQL's own headers are not clean under -Wextra's unused parameters and sign comparisons.
PG_CFLAGS = -std=gnu99 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers -Wno-cast-function-type

# No bitcode: JIT inlining buys these functions nothing and would make clang a build dependency.
override with_llvm = no

all: pusher

# The targets that bring the tools themselves run before there is a pg_config (and PGXS has a
# 'check' of its own).
OWN_GOALS = check check-layers check-sql sql style demo demo-stop setup bench fuzz soak
ifneq ($(filter-out $(OWN_GOALS),$(or $(MAKECMDGOALS),all)),)
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
endif

# PGXS does not know which headers an object was made from: a changed one rebuilds everything.
HEADERS = $(addprefix src/,ecstats.h errors.h compat.h intake_text.h jsonb_get.h event.h order.h rollup.h rollup_block.h rollup_days.h rollup_order.h cron_expr.h \
	job.h source.h activity.h activity_tag.h template.h template_document.h template_error.h template_filter.h)
$(OBJS): $(HEADERS)

# ------------------------------------------------------------------ install script
# Assembled and committed. OR REPLACE is for the pieces alone: an upgrade script re-uses them, while
# the install script must refuse to take over an object that somebody planted. What is not ASCII becomes
# \u4eba: the script loads in every encoding, and ecstats.native_text() reads these where they matter.
ASSEMBLE = sed -E 's/^CREATE OR REPLACE (FUNCTION|PROCEDURE|VIEW|AGGREGATE|TRIGGER)/CREATE \1/' $(SQL_PIECES) | \
	perl -CSD -pe 's/([^\x00-\x7f])/sprintf("\\u%04x", ord($$1))/ge'

.PHONY: sql check-sql pusher install-pusher check check-layers style demo demo-stop setup bench fuzz soak
sql:
	$(ASSEMBLE) > ecstats--1.0.sql

check-sql:
	@$(ASSEMBLE) | diff -u ecstats--1.0.sql - > /dev/null || \
		{ echo "ecstats--1.0.sql is not what sql/ makes: run 'make sql' and commit it"; exit 1; }

# ------------------------------------------------------------------ pusher
pusher:
	$(MAKE) -C pusher

install: install-pusher
install-pusher: pusher
	$(MAKE) -C pusher install

clean: clean-pusher
.PHONY: clean-pusher
clean-pusher:
	$(MAKE) -C pusher clean

# ------------------------------------------------------------------ proof
ifeq ($(filter-out $(OWN_GOALS),$(or $(MAKECMDGOALS),all)),)
check:
	@bash test/run.sh
endif

check-layers:
	@bash test/check_layers.sh

style:
	clang-format --dry-run -Werror src/*.[ch] pusher/*.[ch]

setup:
	@bash test/lib/setup.sh

demo:
	@bash demo/demo.sh

demo-stop:
	@bash demo/stop.sh

bench: setup
	@bash bench/intake.sh && bash bench/maintain.sh && bash bench/rollup.sh && bash bench/activity.sh

fuzz: setup
	@bash test/fuzz/run.sh long

soak:
	@bash test/soak.sh
