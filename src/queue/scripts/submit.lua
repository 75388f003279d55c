-- Submits a job. ARGV: id, how (queued|uploading|delayed), ms until due (upload window or delay),
-- spec, max attempts, boost ms, hook flag, for how many ms its record is kept after its end, submitted at
-- (the caller's clock, for the listing), the trace that it belongs to, or nothing, the version of the
-- record, and for how many ms its input and its outputs are kept ('': for ever).
-- Returns CREATED, or EXISTS with the spec of the existing job.
local id, how, wait, spec = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local max, boost, hook, keep, at = ARGV[6], tonumber(ARGV[7]), ARGV[8], ARGV[9], ARGV[10]
-- The index prevents a second submit: a job leaves it only after its hash has expired
-- (prune_index.lua), and an expired id may be used again.
if redis.call('ZADD', index, 'NX', at, id) == 0 then
  local existing = redis.call('HGET', status(id), 'spec')
  if existing then return { 'EXISTS', existing } end
  redis.call('ZADD', index, at, id)
end
local state = how == 'uploading' and 'uploading' or 'queued'
local ms = event(id, state)
local rank = ms - boost
redis.call('HSET', status(id), 'spec', spec, 'state', state, 'max', max, 'boost', boost, 'hook', hook,
  'keep', keep, 'created', ms, 'rank', rank, 'attempt', 0, 'epoch', 0,
  'trace', ARGV[11], 'v', ARGV[12], 'keep_input', ARGV[13], 'keep_outputs', ARGV[14], 'queued', how == 'queued' and ms or '', 'retry', how == 'delayed' and ms + wait or '')
if how == 'uploading' then
  redis.call('ZADD', uploading, ms + wait, id)
elseif how == 'delayed' then
  redis.call('ZADD', scheduled, by_clock(ms) + wait, id)
  ring(id)
else
  redis.call('ZADD', pending, rank, id)
  ring(id)
end
return { 'CREATED', ms }
