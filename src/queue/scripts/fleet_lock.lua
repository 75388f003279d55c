-- The fleet lock: the reconciler that holds it may change machines. The epoch grows when the holder changes.
-- ARGV: hold holder ms fresh insist. Returns MINE epoch | HELD ms | LAPSED ms ago.
--       release holder epoch. Returns OK.
local verb, holder = ARGV[2], ARGV[3]
local l = redis.call('HMGET', lock, 'holder', 'epoch', 'until')
local mine, epoch = l[1] == holder, tonumber(l[2] or '0')
if verb == 'release' then
  if mine and l[2] == ARGV[4] then redis.call('HSET', lock, 'holder', '', 'until', 0) end
  return { 'OK' }
end
local ms, fresh, insist = tonumber(ARGV[4]), ARGV[5] == '1', ARGV[6] == '1'
local now = clock()
-- A clock that was set back must not block everybody for longer than a lock can last.
local left = math.min(tonumber(l[3] or '0') - now, 300000)
local taken = l[1] and l[1] ~= '' and not mine
if taken and left > 0 then return { 'HELD', left } end
if taken and not insist then return { 'LAPSED', -left } end
if fresh or not mine then epoch = epoch + 1 end
redis.call('HSET', lock, 'holder', holder, 'epoch', epoch, 'until', now + ms)
return { 'MINE', epoch }
