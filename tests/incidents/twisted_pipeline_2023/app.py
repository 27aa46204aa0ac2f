"""twisted.web, whose answers take a while; 22.10 sent those to pipelined requests in the order they were ready."""

import sys

from twisted.internet import reactor, task
from twisted.web import resource, server


class Me(resource.Resource):
    isLeaf = True  # noqa: N815 - the name that twisted looks for

    def render_GET(self, request):  # noqa: N802
        def answer():
            request.write(request.getHeader("x-name").encode())
            request.finish()

        task.deferLater(reactor, float(request.getHeader("x-wait-s")), answer)
        return server.NOT_DONE_YET


reactor.listenTCP(int(sys.argv[1]), server.Site(Me()), interface="127.0.0.1")
reactor.run()
