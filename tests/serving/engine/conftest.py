from serving.engine.process_state import prepare_process

prepare_process()  # as an engine's entry point does
