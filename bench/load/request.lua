-- For wrk: the request of a scenario, and its result as one line of JSON.
-- Arguments: method, size of the content in bytes.

function init(args)
  wrk.method = args[1]
  local size = tonumber(args[2])
  if size > 0 then
    wrk.body = string.rep("x", size)
  end
end

function done(summary, latency, requests)
  local e = summary.errors
  print(string.format(
    'wrk-result {"duration_us": %d, "requests": %d, "bytes": %d, "connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}',
    summary.duration, summary.requests, summary.bytes, e.connect, e.read, e.write, e.status, e.timeout))
end
