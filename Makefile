.PHONY: help demo test guarantees soak fuzz bench lint doc

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## index 20 real photographs and search with an altered copy of one; needs no service
	tests/demo/demo.sh

test: ## every check and test, with an own RabbitMQ and Elasticsearch; ES=8.16.3 takes the older server
	tests/run.sh

guarantees: ## the guarantees of docs/reliability.md with their full counts, and a report
	tests/run.sh guarantees

soak: ## kills, restarts and blocks at random, then every message is accounted for; SECONDS=600, SEED=n repeats a printed seed
	IMGDEX_SOAK_SECONDS=$(SECONDS) IMGDEX_SOAK_SEED=$(SEED) tests/run.sh soak

bench: ## the measurements of tests/bench; BENCH=NAME runs one
	tests/bench/run.sh $(BENCH)

fuzz: ## inputs made up to break parsers, guard and decoders; FUZZ=NAME runs one target, SECONDS=600 each
	tests/fuzz/run.sh "$(FUZZ)" $(SECONDS)

lint: ## formatting and lints
	tests/run.sh lint

doc: ## the documentation, in target/doc
	tests/run.sh doc
