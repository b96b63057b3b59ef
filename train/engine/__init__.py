"""The exact gradient over windows in constant memory. From outside: generate.canvas, drspo, lora.adapters."""
