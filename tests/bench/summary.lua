-- With an argument behind the address: posts it, as JSON.
init = function(arguments)
  if arguments[1] then
    wrk.method, wrk.body = "POST", arguments[1]
    wrk.headers["Content-Type"] = "application/json"
  end
end

-- Prints what wrk counted as one line of JSON: its own report rounds, in units that change.
done = function(summary, latency)
  local errors = summary.errors
  print(string.format(
    '{"requests": %d, "bytes": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f,' ..
    ' "errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}',
    summary.requests, summary.bytes, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout
  ))
end
